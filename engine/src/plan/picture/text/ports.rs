//! Where lines enter boxes.
//!
//! Steps that have the same dependents in the next row share a net (`channel`); each other net
//! enters a box in a column of its own. If two nets ran into one column, whoever came down the one
//! could turn into the other, and would read a need that is none.

use std::collections::{BTreeMap, BTreeSet};

use super::channel::Net;

/// Columns between two entries of a box, if there is room.
const STEP: usize = 4;

/// Where slots stand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ground<'a> {
    /// The middle column of each slot: lines leave there.
    pub(super) middles: &'a [usize],
    /// How far from the middle of each slot a line may enter: 0 for a point.
    pub(super) reach: &'a [usize],
}

/// Whether lines enter in a column where another net comes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// They may: the picture is quieter, but may have no channel.
    Straight,
    /// They step aside.
    Aside,
}

/// The lines of a channel, and where they enter which slot.
#[derive(Debug, Default)]
pub(super) struct Lines {
    /// The nets, for the channel.
    pub(super) nets: Vec<Net>,
    /// Slot and column of each entry.
    pub(super) entries: Vec<(usize, usize)>,
}

/// Turns links between two rows into nets; `None` if a slot is too narrow for its entries.
pub(super) fn lines(pairs: &[(usize, usize)], ground: Ground<'_>, entry: Entry) -> Option<Lines> {
    let nets = group(pairs);
    let mut lines = Lines::default();
    for (tops, _) in &nets {
        let tops = tops.iter().map(|&top| ground.middles[top]).collect();
        lines.nets.push(Net {
            tops,
            bottoms: Vec::new(),
        });
    }
    let bottoms: BTreeSet<usize> = pairs.iter().map(|pair| pair.1).collect();
    for bottom in bottoms {
        let mut feeding: Vec<usize> = (0..nets.len())
            .filter(|&net| nets[net].1.contains(&bottom))
            .collect();
        feeding.sort_by_key(|&net| centre(&lines.nets[net].tops));
        let mut columns = columns(bottom, &feeding, &lines.nets, ground)?;
        if entry == Entry::Aside {
            step_aside(&mut columns, bottom, &feeding, &lines.nets, ground);
        }
        for (&net, column) in feeding.iter().zip(columns) {
            lines.nets[net].bottoms.push(column);
            lines.entries.push((bottom, column));
        }
    }
    Some(lines)
}

/// Slots above with the slots below that all of them lead to.
fn group(pairs: &[(usize, usize)]) -> Vec<(Vec<usize>, BTreeSet<usize>)> {
    let mut bottoms_of: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for &(top, bottom) in pairs {
        bottoms_of.entry(top).or_default().insert(bottom);
    }
    let mut tops_of: BTreeMap<BTreeSet<usize>, Vec<usize>> = BTreeMap::new();
    for (top, bottoms) in bottoms_of {
        tops_of.entry(bottoms).or_default().push(top);
    }
    tops_of
        .into_iter()
        .map(|(bottoms, tops)| (tops, bottoms))
        .collect()
}

/// The columns where the feeding nets enter, from left to right: evenly around the middle, but
/// straight below a single slot that stands above the box.
fn columns(
    bottom: usize,
    feeding: &[usize],
    nets: &[Net],
    ground: Ground<'_>,
) -> Option<Vec<usize>> {
    let (middle, reach) = (ground.middles[bottom], ground.reach[bottom]);
    let gaps = feeding.len() - 1;
    let step = (2 * reach)
        .checked_div(gaps)
        .map_or(STEP, |room| std::cmp::min(room, STEP));
    if step < 2 {
        return None;
    }
    let mut columns: Vec<usize> = (0..=gaps)
        .map(|at| middle + at * step - gaps * step / 2)
        .collect();
    for (at, &net) in feeding.iter().enumerate() {
        let least = at.checked_sub(1).map_or_else(
            || middle.saturating_sub(reach),
            |before| columns[before] + 2,
        );
        let most = columns.get(at + 1).map_or(middle + reach, |next| next - 2);
        if let [only] = nets[net].tops[..]
            && (least..=most).contains(&only)
        {
            columns[at] = only;
        }
    }
    Some(columns)
}

/// Moves entries out of the columns where other nets come down, as far as there is room.
fn step_aside(
    columns: &mut [usize],
    bottom: usize,
    feeding: &[usize],
    nets: &[Net],
    ground: Ground<'_>,
) {
    for at in 0..columns.len() {
        let is_foreign = |column: usize| {
            let others = nets
                .iter()
                .enumerate()
                .filter(|(net, _)| *net != feeding[at]);
            others
                .into_iter()
                .any(|(_, net)| net.tops.contains(&column))
        };
        let is_fit = |column: &usize| {
            column.abs_diff(ground.middles[bottom]) <= ground.reach[bottom]
                && !is_foreign(*column)
                && columns
                    .iter()
                    .enumerate()
                    .all(|(other, taken)| other == at || taken.abs_diff(*column) > 1)
        };
        let near = [0, 1, -1, 2, -2, 3, -3].map(|aside| columns[at].saturating_add_signed(aside));
        columns[at] = near.into_iter().find(is_fit).unwrap_or(columns[at]);
    }
}

fn centre(tops: &[usize]) -> usize {
    tops.iter().sum::<usize>() / std::cmp::max(tops.len(), 1)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn nets_that_share_only_some_boxes_enter_apart() {
        // Slots 0 and 1 above, 2 and 3 below: 0 leads to both, 1 only to 3.
        let (middles, reach) = ([10, 30, 10, 30], [5; 4]);
        let ground = Ground {
            middles: &middles,
            reach: &reach,
        };
        let found = lines(&[(0, 2), (0, 3), (1, 3)], ground, Entry::Straight).unwrap();
        assert_eq!(
            found.nets[0],
            Net {
                tops: vec![10],
                bottoms: vec![10, 28]
            }
        );
        assert_eq!(
            found.nets[1],
            Net {
                tops: vec![30],
                bottoms: vec![30]
            }
        );
        assert_eq!(found.entries, [(2, 10), (3, 28), (3, 30)]);
    }

    #[test]
    fn a_point_takes_one_net_only() {
        let (middles, reach) = ([10, 30, 10, 30], [5, 5, 5, 0]);
        let ground = Ground {
            middles: &middles,
            reach: &reach,
        };
        assert!(lines(&[(0, 3), (1, 3)], ground, Entry::Straight).is_some());
        assert!(lines(&[(0, 2), (0, 3), (1, 3)], ground, Entry::Straight).is_none());
    }

    #[test]
    fn an_entry_steps_aside_from_a_stranger_above() {
        let (middles, reach) = ([10, 30, 10, 30], [5; 4]);
        let ground = Ground {
            middles: &middles,
            reach: &reach,
        };
        let found = lines(&[(0, 3), (1, 2)], ground, Entry::Aside).unwrap();
        assert_eq!(found.entries, [(2, 11), (3, 31)]);
    }
}
