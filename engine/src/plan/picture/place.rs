//! Where in its row each slot stands: as straight above and below its neighbours as the others let it.
//!
//! For a given order of a row the best places (least squares of the distance to the wished place,
//! with the distances kept) are an isotonic regression: neighbours that would come too close become
//! a block that stands at its members' average (pool adjacent violators), which is exact and linear.
//! Sweeps over the rows carry the wishes down, up, and then both ways.

use super::layout::Layout;

/// Parts of a unit, so that whole numbers lose nothing visible. Rounding to units keeps distances,
/// because distances are whole units.
const FINE: isize = 64;

/// Sweeps down and up, then both ways.
const SWEEPS: usize = 6;

/// A bend in a passing line is uglier than a box beside its wish.
const LINE_WEIGHT: isize = 6;

/// How much room there is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room<'a> {
    /// The width of each slot; odd, so that it has a middle unit.
    pub(super) widths: &'a [usize],
    /// Free units between two slots.
    pub(super) gap: usize,
    /// Units in all, if it matters.
    pub(super) limit: Option<usize>,
}

/// The middle unit of each slot, counted from the left edge of the leftmost; `None` if a row is
/// wider than the limit.
pub(super) fn place(layout: &Layout, room: Room<'_>) -> Option<Vec<usize>> {
    let rows: Vec<Row<'_>> = layout
        .rows
        .iter()
        .map(|slots| Row::new(layout, slots, room))
        .collect();
    let widest = rows.iter().map(Row::total).max()?;
    let limit = room
        .limit
        .map_or(isize::MAX, |limit| limit.cast_signed() * FINE);
    if widest > limit {
        return None;
    }
    // A little more than the widest row needs: without a bound rows that hang on a line at their
    // side would walk off.
    let width = std::cmp::min(limit, widest / 4 * 5);
    let mut middles = vec![0; layout.row_of.len()];
    for row in &rows {
        row.centre(width, &mut middles);
    }
    let middles = settle_all(layout, &rows, width, middles)?;
    let left = rows.iter().filter_map(|row| row.left(&middles)).min()?;
    let in_units = |middle: &isize| ((middle - left + FINE / 2) / FINE).cast_unsigned();
    Some(middles.iter().map(in_units).collect())
}

/// Sweeps until all stand well.
fn settle_all(
    layout: &Layout,
    rows: &[Row<'_>],
    width: isize,
    mut middles: Vec<isize>,
) -> Option<Vec<isize>> {
    let (above, below) = layout.neighbours();
    let both = above
        .iter()
        .zip(&below)
        .map(|(above, below)| [&above[..], below].concat());
    let both: Vec<Vec<usize>> = both.collect();
    let down = |neighbours: &[Vec<usize>], middles: &mut Vec<isize>| {
        for row in rows {
            row.settle(layout, neighbours, width, middles);
        }
    };
    let up = |neighbours: &[Vec<usize>], middles: &mut Vec<isize>| {
        for row in rows.iter().rev() {
            row.settle(layout, neighbours, width, middles);
        }
    };
    for _ in 0..SWEEPS {
        down(&above, &mut middles);
        up(&below, &mut middles);
    }
    for _ in 0..SWEEPS / 2 {
        down(&both, &mut middles);
        up(&both, &mut middles);
    }
    // Now all stand between their neighbours. What is above, or below, may count more in the end:
    // which of the three looks best depends on the plan.
    let (mut hanging, mut standing) = (middles.clone(), middles.clone());
    down(&above, &mut hanging);
    up(&below, &mut standing);
    [middles, hanging, standing]
        .into_iter()
        .min_by_key(|middles| ugliness(layout, middles))
}

/// Lines that are not straight, then how far all of them run aside.
fn ugliness(layout: &Layout, middles: &[isize]) -> (usize, isize) {
    let aside = |&(from, to): &(usize, usize)| (middles[from] - middles[to]).abs();
    let bent = layout
        .links
        .iter()
        .filter(|link| aside(link) > FINE)
        .count();
    (bent, layout.links.iter().map(aside).sum())
}

/// A row and the distances that must be kept in it, in fine units.
struct Row<'a> {
    slots: &'a [usize],
    /// Of each slot's middle from the row's left edge when all stand as close as they may.
    packed: Vec<isize>,
    first_half: isize,
    last_half: isize,
}

impl<'a> Row<'a> {
    fn new(layout: &Layout, slots: &'a [usize], room: Room<'_>) -> Self {
        let half = |slot: usize| (room.widths[slot] / 2).cast_signed() * FINE;
        let mut packed: Vec<isize> = Vec::with_capacity(slots.len());
        for (at, &slot) in slots.iter().enumerate() {
            let middle = match at.checked_sub(1) {
                None => half(slot),
                Some(before) => {
                    // Two passing lines may run closer than boxes stand.
                    let lines = !layout.is_step(slot) && !layout.is_step(slots[before]);
                    let gap = if lines {
                        room.gap.div_ceil(2)
                    } else {
                        room.gap
                    };
                    packed[before]
                        + half(slots[before])
                        + half(slot)
                        + (gap.cast_signed() + 1) * FINE
                }
            };
            packed.push(middle);
        }
        let end = |slot: Option<&usize>| slot.map_or(0, |&slot| half(slot));
        Self {
            slots,
            packed,
            first_half: end(slots.first()),
            last_half: end(slots.last()),
        }
    }

    /// The width of the row when packed.
    fn total(&self) -> isize {
        self.packed
            .last()
            .map_or(0, |last| last + self.last_half + FINE)
    }

    fn centre(&self, width: isize, middles: &mut [isize]) {
        let shift = (width - self.total()) / 2;
        for (&slot, packed) in self.slots.iter().zip(&self.packed) {
            middles[slot] = packed + shift;
        }
    }

    fn left(&self, middles: &[isize]) -> Option<isize> {
        Some(middles[*self.slots.first()?] - self.first_half)
    }

    /// Moves the row's slots to the best places for the wishes of `neighbours`.
    fn settle(
        &self,
        layout: &Layout,
        neighbours: &[Vec<usize>],
        width: isize,
        middles: &mut [isize],
    ) {
        let mut blocks: Vec<Block> = Vec::with_capacity(self.slots.len());
        for (&slot, packed) in self.slots.iter().zip(&self.packed) {
            let weight = if layout.is_step(slot) { 1 } else { LINE_WEIGHT };
            let wish = wish(layout, &neighbours[slot], middles).unwrap_or(middles[slot]) - packed;
            let mut block = Block {
                sum: wish * weight,
                weight,
                len: 1,
            };
            while let Some(last) = blocks.pop_if(|last| last.at() >= block.at()) {
                block = Block {
                    sum: last.sum + block.sum,
                    weight: last.weight + block.weight,
                    len: last.len + block.len,
                };
            }
            blocks.push(block);
        }
        let most = width - self.total();
        let ats = blocks
            .iter()
            .flat_map(|block| std::iter::repeat_n(block.at(), block.len));
        for ((&slot, packed), at) in self.slots.iter().zip(&self.packed).zip(ats) {
            middles[slot] = packed + at.clamp(0, most);
        }
    }
}

/// Slots that stand as close as they may, and where they wish to stand together.
struct Block {
    sum: isize,
    weight: isize,
    len: usize,
}

impl Block {
    fn at(&self) -> isize {
        self.sum.div_euclid(self.weight)
    }
}

/// The average middle of the neighbours; passing lines pull more.
fn wish(layout: &Layout, neighbours: &[usize], middles: &[isize]) -> Option<isize> {
    let weight = |slot: usize| if layout.is_step(slot) { 1 } else { 2 };
    let sum: isize = neighbours
        .iter()
        .map(|&slot| middles[slot] * weight(slot))
        .sum();
    sum.checked_div(neighbours.iter().map(|&slot| weight(slot)).sum())
}
