//! The lines of an SVG picture.
//!
//! Most lines are curves. Where a slot has many lines at one side, curves would be a bundle in which
//! none can be followed: they run along a bus instead, a horizontal of their own.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::BOX_HEIGHT;
use crate::plan::picture::layout::Layout;

/// This many lines at one side of a slot share a bus.
const BUS: usize = 5;

/// Pixels of the radius where a line turns into its bus.
const BEND: usize = 6;

/// Pixels between the entries of a box. Eight at each side of the middle are within any box.
const ENTRY: usize = 6;

/// Least and largest distance of rows, in pixels: curves that run far to the side need more.
const ROW_GAP: (usize, usize) = (34, 90);

/// Pixels for each bus beside the least distance, and the largest distance for buses.
const BUS_GAP: (usize, usize) = (14, 200);

/// What a bus belongs to. Those that gather come first: they run above those that distribute, so
/// that what comes down from a box does not run over what goes down to the box under it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Bus {
    /// All lines into a slot.
    Into(usize),
    /// All lines out of a slot.
    Out(usize),
}

/// The lines of a layout.
pub(super) struct Wires<'a> {
    layout: &'a Layout,
    above: Vec<Vec<usize>>,
    below: Vec<Vec<usize>>,
    /// Under each row its buses, from above.
    buses: Vec<Vec<Bus>>,
}

impl<'a> Wires<'a> {
    pub(super) fn new(layout: &'a Layout) -> Self {
        let (above, below) = layout.neighbours();
        let mut wires = Self {
            layout,
            above,
            below,
            buses: Vec::new(),
        };
        let mut buses = vec![BTreeSet::new(); layout.rows.len()];
        for &link in &layout.links {
            buses[layout.row_of[link.0]].extend(wires.bus(link));
        }
        wires.buses = buses
            .into_iter()
            .map(|buses| buses.into_iter().collect())
            .collect();
        wires
    }

    fn bus(&self, (from, to): (usize, usize)) -> Option<Bus> {
        let (out, into) = (self.below[from].len(), self.above[to].len());
        match std::cmp::max(out, into) >= BUS {
            true if out >= into => Some(Bus::Out(from)),
            true => Some(Bus::Into(to)),
            false => None,
        }
    }

    /// Under each row the distance to the next, in pixels; `x` has the middle of each slot.
    pub(super) fn gaps(&self, x: &[usize]) -> Vec<usize> {
        let mut aside = vec![0; self.layout.rows.len()];
        for &(from, to) in self
            .layout
            .links
            .iter()
            .filter(|link| self.bus(**link).is_none())
        {
            let row = self.layout.row_of[from];
            aside[row] = std::cmp::max(aside[row], x[from].abs_diff(x[to]));
        }
        let gap = |(aside, buses): (usize, &Vec<Bus>)| {
            let for_curves = std::cmp::min(ROW_GAP.0 + aside / 12, ROW_GAP.1);
            let for_buses = std::cmp::min(ROW_GAP.0 + buses.len() * BUS_GAP.0, BUS_GAP.1);
            std::cmp::max(for_curves, for_buses)
        };
        aside.into_iter().zip(&self.buses).map(gap).collect()
    }

    /// The data of a path with all lines; `x` has the middle of each slot, `y` the top of each row.
    pub(super) fn lines(&self, x: &[usize], y: &[usize]) -> String {
        let mut out = String::new();
        let top = |slot: usize| y[self.layout.row_of[slot]];
        for &link in self.layout.links.iter().chain(&self.layout.shortcuts) {
            let (from, to) = link;
            let (start, end) = (
                (x[from], top(from) + BOX_HEIGHT),
                (self.entry(link, x), top(to)),
            );
            match self.height(link, start, end) {
                Some(height) => along_bus(&mut out, start, end, height),
                None => curve(&mut out, start, end),
            }
        }
        for (point, x) in x.iter().enumerate().skip(self.layout.steps) {
            let _ = write!(out, "M{x} {}v{BOX_HEIGHT}", top(point));
        }
        out
    }

    /// The data of a path with an arrow head on each step that needs others.
    pub(super) fn heads(&self, x: &[usize], y: &[usize]) -> String {
        let into_steps = self.layout.links.iter().chain(&self.layout.shortcuts);
        let into_steps = into_steps.filter(|(_, to)| self.layout.is_step(*to));
        let entries: BTreeSet<(usize, usize)> = into_steps
            .map(|&link| (y[self.layout.row_of[link.1]], self.entry(link, x)))
            .collect();
        entries.iter().fold(String::new(), |mut out, (y, x)| {
            let _ = write!(out, "M{x} {y}l-4.5 -8h9z");
            out
        })
    }

    /// Where a link enters: in the middle, but beside it where several buses of a kind are under one
    /// row. Else a line from a bus could come down exactly where another slot's line goes to its
    /// lower bus, and both would look like one.
    fn entry(&self, link: (usize, usize), x: &[usize]) -> usize {
        let buses = &self.buses[self.layout.row_of[link.0]];
        let gathering = buses
            .iter()
            .filter(|bus| matches!(bus, Bus::Into(_)))
            .count();
        let is_plain = gathering <= 1 && buses.len() - gathering <= 1;
        let place = self
            .bus(link)
            .and_then(|bus| buses.binary_search(&bus).ok());
        match place {
            Some(place) if !is_plain && self.layout.is_step(link.1) => {
                let aside = ENTRY * (place / 2 % 8 + 1);
                if place % 2 == 0 {
                    x[link.1] + aside
                } else {
                    x[link.1] - aside
                }
            }
            _ => x[link.1],
        }
    }

    /// The height of the bus of a link that has one and runs far enough to use it.
    fn height(
        &self,
        link: (usize, usize),
        start: (usize, usize),
        end: (usize, usize),
    ) -> Option<usize> {
        let bus = self.bus(link)?;
        let buses = &self.buses[self.layout.row_of[link.0]];
        let place = buses.binary_search(&bus).ok()? + 1;
        let height = start.1 + (end.1 - start.1) * place / (buses.len() + 1);
        (start.0.abs_diff(end.0) >= 2 * BEND).then_some(height)
    }
}

/// Down, along and down.
fn along_bus(out: &mut String, start: (usize, usize), end: (usize, usize), height: usize) {
    let is_right = start.0 < end.0;
    let (leave, arrive) = if is_right {
        (start.0 + BEND, end.0 - BEND)
    } else {
        (start.0 - BEND, end.0 + BEND)
    };
    let _ = write!(
        out,
        "M{} {}V{}Q{} {height} {leave} {height}",
        start.0,
        start.1,
        height - BEND,
        start.0
    );
    let _ = write!(
        out,
        "H{arrive}Q{} {height} {} {}V{}",
        end.0,
        end.0,
        height + BEND,
        end.1
    );
}

/// Out of the box and into the next straight down, whatever is between.
fn curve(out: &mut String, start: (usize, usize), end: (usize, usize)) {
    let bend = start.1.midpoint(end.1);
    let _ = if start.0 == end.0 {
        write!(out, "M{} {}V{}", start.0, start.1, end.1)
    } else {
        write!(
            out,
            "M{} {}C{} {bend} {} {bend} {} {}",
            start.0, start.1, start.0, end.0, end.0, end.1
        )
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::picture::tests::picture;

    #[test]
    fn few_lines_are_curves_and_many_share_a_bus() {
        let few = Layout::new(&picture("a:; b: a; c: a"), 9);
        assert_eq!(Wires::new(&few).buses, [vec![], vec![]]);
        let many = Layout::new(
            &picture("a:; b: a; c: a; d: a; e: a; f: a; g: b c d e f"),
            9,
        );
        let wires = Wires::new(&many);
        assert_eq!(wires.buses, [vec![Bus::Out(0)], vec![Bus::Into(6)], vec![]]);
        assert_eq!(wires.gaps(&[0; 7]), [48, 48, 34]);
    }
}
