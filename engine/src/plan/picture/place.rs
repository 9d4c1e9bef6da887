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
    let (above, below) = layout.neighbours();
    let both: Vec<Vec<usize>> = above.iter().zip(&below).map(|(above, below)| [&above[..], below].concat()).collect();
    let rows: Vec<Row<'_>> = layout.rows.iter().map(|slots| Row::new(layout, slots, room)).collect();
    let widest = rows.iter().map(Row::total).max()?;
    let free = (isize::MIN / 4, isize::MAX / 4);
    let bounds = room.limit.map_or(free, |limit| (0, limit.cast_signed() * FINE));
    if widest > bounds.1 {
        return None;
    }
    let mut middles = vec![0; layout.row_of.len()];
    rows.iter().for_each(|row| row.centre(widest, &mut middles));
    let sweep = |neighbours: &[Vec<usize>], down: bool, middles: &mut Vec<isize>| {
        let settle = |row: &Row<'_>| row.settle(layout, neighbours, bounds, middles);
        if down { rows.iter().for_each(settle) } else { rows.iter().rev().for_each(settle) }
    };
    for _ in 0..SWEEPS {
        sweep(&above, true, &mut middles);
        sweep(&below, false, &mut middles);
    }
    for down in [true, false].repeat(SWEEPS / 2) {
        sweep(&both, down, &mut middles);
    }
    // Now all stand between their neighbours. What is above, or below, may count more in the end:
    // which of the three looks best depends on the plan.
    let (mut hanging, mut standing) = (middles.clone(), middles.clone());
    sweep(&above, true, &mut hanging);
    sweep(&below, false, &mut standing);
    let middles = [middles, hanging, standing].into_iter().min_by_key(|middles| ugliness(layout, middles))?;
    let left = rows.iter().filter_map(|row| row.left(&middles)).min()?;
    Some(middles.iter().map(|middle| ((middle - left + FINE / 2) / FINE).cast_unsigned()).collect())
}

/// Lines that are not straight, then how far all of them run aside.
fn ugliness(layout: &Layout, middles: &[isize]) -> (usize, isize) {
    let aside = |&(from, to): &(usize, usize)| (middles[from] - middles[to]).abs();
    let bent = layout.links.iter().filter(|link| aside(link) > FINE).count();
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
                    let gap = if lines { room.gap.div_ceil(2) } else { room.gap };
                    packed[before] + half(slots[before]) + half(slot) + (gap.cast_signed() + 1) * FINE
                }
            };
            packed.push(middle);
        }
        let end = |slot: Option<&usize>| slot.map_or(0, |&slot| half(slot));
        Self { slots, packed, first_half: end(slots.first()), last_half: end(slots.last()) }
    }

    /// The width of the row when packed.
    fn total(&self) -> isize {
        self.packed.last().map_or(0, |last| last + self.last_half + FINE)
    }

    fn centre(&self, widest: isize, middles: &mut [isize]) {
        let shift = (widest - self.total()) / 2;
        for (&slot, packed) in self.slots.iter().zip(&self.packed) {
            middles[slot] = packed + shift;
        }
    }

    fn left(&self, middles: &[isize]) -> Option<isize> {
        Some(middles[*self.slots.first()?] - self.first_half)
    }

    /// Moves the row's slots to the best places for the wishes of `neighbours`.
    fn settle(&self, layout: &Layout, neighbours: &[Vec<usize>], bounds: (isize, isize), middles: &mut [isize]) {
        let mut blocks: Vec<Block> = Vec::with_capacity(self.slots.len());
        for (&slot, packed) in self.slots.iter().zip(&self.packed) {
            let weight = if layout.is_step(slot) { 1 } else { LINE_WEIGHT };
            let wish = wish(layout, &neighbours[slot], middles).unwrap_or(middles[slot]) - packed;
            let mut block = Block { sum: wish * weight, weight, len: 1 };
            while let Some(last) = blocks.pop_if(|last| last.at() >= block.at()) {
                block = Block { sum: last.sum + block.sum, weight: last.weight + block.weight, len: last.len + block.len };
            }
            blocks.push(block);
        }
        let (least, most) = (bounds.0, bounds.1 - self.total());
        let ats = blocks.iter().flat_map(|block| std::iter::repeat_n(block.at(), block.len));
        for ((&slot, packed), at) in self.slots.iter().zip(&self.packed).zip(ats) {
            middles[slot] = packed + at.clamp(least, most);
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
    let sum: isize = neighbours.iter().map(|&slot| middles[slot] * weight(slot)).sum();
    sum.checked_div(neighbours.iter().map(|&slot| weight(slot)).sum())
}
