//! Which step stands in which row, and in which order: the layered drawing of Sugiyama.
//!
//! Rows are the lengths of the longest chains of needs; a row that is too wide becomes several. A
//! line that passes rows goes through points in them, and lines of one step share their points: as a
//! trunk out of a step that many need, or into a step that needs many. A trunk has one owner, so that
//! whoever follows it from any end arrives at a true need, and a join of 200 steps is one line wide.
//! Then sweeps order each row by the average place of the neighbours (barycentre), keeping the order
//! with the fewest crossings. All of it is deterministic and looks at keys and needs only.

use std::collections::{BTreeSet, HashMap};

use super::Picture;

/// Down and up sweeps; crossings hardly fall after a few.
const SWEEPS: usize = 12;

/// Points for passing lines. More than this is a picture nobody reads; lines then go straight.
const MAX_POINTS: usize = 8_000;

/// Parts of a place, so that averages of places stay whole numbers.
const FINE: usize = 1 << 20;

/// Where everything stands. Slots `0..steps` are the steps of the picture, with its indices; the
/// others are points that a line passes.
#[derive(Debug)]
pub(super) struct Layout {
    /// How many slots are steps.
    pub(super) steps: usize,
    /// The row of each slot.
    pub(super) row_of: Vec<usize>,
    /// Slots of each row, from left to right.
    pub(super) rows: Vec<Vec<usize>>,
    /// Lines from a slot to one in the next row.
    pub(super) links: Vec<(usize, usize)>,
    /// Lines that pass rows without points, because there would be too many.
    pub(super) shortcuts: Vec<(usize, usize)>,
}

impl Layout {
    /// Lays out a picture with at most `per_row` steps (at least 1) beside each other.
    pub(super) fn new(picture: &Picture, per_row: usize) -> Self {
        Self::with(picture, per_row, |trunk, _| trunk)
    }

    /// The same without trunks: each line passes rows for itself. Wider, but where lines of one step
    /// both share and part a text picture may have no other way.
    pub(super) fn with_own_lines(picture: &Picture, per_row: usize) -> Self {
        Self::with(picture, per_row, |_, (from, to)| Trunk::Own(from, to))
    }

    fn with(picture: &Picture, per_row: usize, owner: fn(Trunk, (usize, usize)) -> Trunk) -> Self {
        let (levels, needs) = levels(picture);
        let mut layout = Self::of_rows(split(&levels, std::cmp::max(per_row, 1)));
        layout.connect(&needs, owner);
        layout.untangle();
        layout
    }

    fn of_rows(row_of: Vec<usize>) -> Self {
        let mut rows = vec![Vec::new(); row_of.iter().max().map_or(0, |last| last + 1)];
        for (slot, &row) in row_of.iter().enumerate() {
            rows[row].push(slot);
        }
        let steps = row_of.len();
        Self {
            steps,
            row_of,
            rows,
            links: Vec::new(),
            shortcuts: Vec::new(),
        }
    }

    /// Whether the slot is a step and not a point that a line passes.
    pub(super) fn is_step(&self, slot: usize) -> bool {
        slot < self.steps
    }

    /// For each slot those that lines come from (`.0`) and go to (`.1`).
    pub(super) fn neighbours(&self) -> (Vec<Vec<usize>>, Vec<Vec<usize>>) {
        let mut above = vec![Vec::new(); self.row_of.len()];
        let mut below = above.clone();
        for &(from, to) in &self.links {
            above[to].push(from);
            below[from].push(to);
        }
        (above, below)
    }

    /// Turns needs (needed, needing) into links, with points where they pass rows.
    fn connect(&mut self, needs: &[(usize, usize)], owner: fn(Trunk, (usize, usize)) -> Trunk) {
        let (mut out, mut into) = (vec![0_usize; self.steps], vec![0_usize; self.steps]);
        for &(from, to) in needs {
            out[from] += 1;
            into[to] += 1;
        }
        let mut points = HashMap::new();
        let mut links = BTreeSet::new();
        for &(from, to) in needs {
            if self.row_of.len() - self.steps >= MAX_POINTS {
                self.shortcuts.push((from, to));
                continue;
            }
            let trunk = if out[from] >= into[to] {
                Trunk::From(from)
            } else {
                Trunk::Into(to)
            };
            let owner = owner(trunk, (from, to));
            let mut at = from;
            for row in self.row_of[from] + 1..self.row_of[to] {
                let point = *points
                    .entry((owner, row))
                    .or_insert_with(|| self.add_point(row));
                links.insert((at, point));
                at = point;
            }
            links.insert((at, to));
        }
        self.links = links.into_iter().collect();
    }

    fn add_point(&mut self, row: usize) -> usize {
        let slot = self.row_of.len();
        self.row_of.push(row);
        self.rows[row].push(slot);
        slot
    }

    /// Orders the rows so that few lines cross.
    fn untangle(&mut self) {
        let (above, below) = self.neighbours();
        let mut best = (self.crossings(&below), self.rows.clone());
        for sweep in 0..SWEEPS {
            if best.0 == 0 {
                break;
            }
            let down = sweep % 2 == 0;
            let neighbours = if down { &above } else { &below };
            let mut place = self.places();
            for step in 0..self.rows.len() {
                let row = if down {
                    step
                } else {
                    self.rows.len() - 1 - step
                };
                self.rows[row].sort_by_cached_key(|&slot| {
                    average(&neighbours[slot], &place).unwrap_or(place[slot] * FINE)
                });
                note_places(&self.rows[row], &mut place);
            }
            let crossings = self.crossings(&below);
            if crossings < best.0 {
                best = (crossings, self.rows.clone());
            }
        }
        self.rows = best.1;
    }

    /// The place of each slot within its row.
    pub(super) fn places(&self) -> Vec<usize> {
        let mut place = vec![0; self.row_of.len()];
        for row in &self.rows {
            note_places(row, &mut place);
        }
        place
    }

    /// How many pairs of links cross; `below` as of [`Self::neighbours`].
    pub(super) fn crossings(&self, below: &[Vec<usize>]) -> usize {
        let place = self.places();
        self.rows
            .iter()
            .zip(self.rows.iter().skip(1))
            .map(|(upper, lower)| {
                let ends = upper.iter().flat_map(|&slot| {
                    let mut ends: Vec<_> = below[slot].iter().map(|&to| place[to]).collect();
                    ends.sort_unstable();
                    ends
                });
                inversions(ends, lower.len())
            })
            .sum()
    }
}

/// Who owns a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Trunk {
    /// All lines out of a step.
    From(usize),
    /// All lines into a step.
    Into(usize),
    /// One line.
    Own(usize, usize),
}

fn note_places(row: &[usize], place: &mut [usize]) {
    for (at, &slot) in row.iter().enumerate() {
        place[slot] = at;
    }
}

/// The average place of `slots`, in `FINE` parts.
fn average(slots: &[usize], place: &[usize]) -> Option<usize> {
    let sum: usize = slots.iter().map(|&slot| place[slot]).sum();
    (sum * FINE).checked_div(slots.len())
}

/// Pairs out of order in `ends`, all less than `len`: counted with a Fenwick tree.
fn inversions(ends: impl Iterator<Item = usize>, len: usize) -> usize {
    let mut tree = vec![0_usize; len + 1];
    let mut total = 0;
    for (seen, end) in ends.enumerate() {
        let mut not_greater = 0;
        let mut at = end + 1;
        while at > 0 {
            not_greater += tree[at];
            at &= at - 1;
        }
        total += seen - not_greater;
        at = end + 1;
        while at <= len {
            tree[at] += 1;
            at += at & at.wrapping_neg();
        }
    }
    total
}

/// The level of each step (the longest chain of needs before it), and the needs as pairs of indices
/// without doubles. Where steps wait for each other the first of them goes ahead and the needs that
/// point back are left out.
pub(super) fn levels(picture: &Picture) -> (Vec<usize>, Vec<(usize, usize)>) {
    let all = edges(picture);
    let count = picture.nodes.len();
    let mut dependents = vec![Vec::new(); count];
    let mut open = vec![0_usize; count];
    for &(from, to) in &all {
        dependents[from].push(to);
        open[to] += 1;
    }
    let mut rank = vec![usize::MAX; count];
    let mut level = vec![0; count];
    let mut queue: Vec<usize> = (0..count).filter(|&step| open[step] == 0).collect();
    let mut forced = 0..count;
    let mut done = 0;
    while done < count {
        let Some(step) = queue.pop().or_else(|| forced.next()) else {
            break;
        };
        if rank[step] != usize::MAX {
            continue;
        }
        rank[step] = done;
        done += 1;
        for &next in dependents[step]
            .iter()
            .filter(|&&next| rank[next] == usize::MAX)
        {
            level[next] = std::cmp::max(level[next], level[step] + 1);
            open[next] -= 1;
            if open[next] == 0 {
                queue.push(next);
            }
        }
    }
    let kept = all
        .into_iter()
        .filter(|&(from, to)| rank[from] < rank[to])
        .collect();
    (level, kept)
}

/// Needs as pairs (needed, needing) of indices, without unknown, double and self needs.
pub(super) fn edges(picture: &Picture) -> BTreeSet<(usize, usize)> {
    let mut known = HashMap::new();
    for (index, node) in picture.nodes.iter().enumerate() {
        known.entry(node.key.as_str()).or_insert(index);
    }
    let needs = picture.nodes.iter().enumerate();
    let pairs = needs.flat_map(|(to, node)| node.needs.iter().map(move |need| (need.as_str(), to)));
    let pairs = pairs.filter_map(|(need, to)| Some((*known.get(need)?, to)));
    pairs.filter(|(from, to)| from != to).collect()
}

/// The row of each step: a level of more than `per_row` steps becomes several rows of about equal
/// length.
fn split(levels: &[usize], per_row: usize) -> Vec<usize> {
    let mut steps_of: Vec<Vec<usize>> = Vec::new();
    for (step, &level) in levels.iter().enumerate() {
        if steps_of.len() <= level {
            steps_of.resize_with(level + 1, Vec::new);
        }
        steps_of[level].push(step);
    }
    let mut row_of = vec![0; levels.len()];
    let mut row = 0;
    for steps in &steps_of {
        let parts = std::cmp::max(steps.len().div_ceil(per_row), 1);
        let len = std::cmp::max(steps.len().div_ceil(parts), 1);
        for part in steps.chunks(len) {
            for &step in part {
                row_of[step] = row;
            }
            row += 1;
        }
    }
    row_of
}

#[cfg(test)]
mod tests {
    use super::super::tests::picture;
    use super::*;

    #[test]
    fn a_line_over_rows_passes_points_and_shares_them() {
        let layout = Layout::new(&picture("a:; b: a; c: b a; d: c a"), 9);
        assert_eq!(layout.row_of[..4], [0, 1, 2, 3]);
        assert_eq!(layout.row_of.len(), 6, "one trunk out of a");
        assert!(
            layout
                .links
                .iter()
                .all(|&(from, to)| layout.row_of[from] + 1 == layout.row_of[to])
        );
    }

    #[test]
    fn crossings_are_removed_where_that_is_possible() {
        let layout = Layout::new(&picture("a:; b:; c:; x: c; y: b; z: a"), 9);
        assert_eq!(layout.crossings(&layout.neighbours().1), 0);
        assert_eq!(inversions([2, 1, 0, 1].into_iter(), 3), 4);
    }

    #[test]
    fn a_wide_level_is_split_evenly() {
        let layout = Layout::new(&picture("a:; b:; c:; d:; e:; f: a e"), 3);
        assert_eq!(layout.row_of[..6], [0, 0, 0, 1, 1, 2]);
    }

    #[test]
    fn what_is_no_dag_is_laid_out_without_the_impossible_lines() {
        let layout = Layout::new(&picture("a: c a ghost; b: a; c: b; a: c"), 9);
        assert_eq!(layout.row_of[..4], [0, 1, 2, 3]);
    }
}
