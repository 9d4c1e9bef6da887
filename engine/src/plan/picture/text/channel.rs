//! The lines between two rows of boxes: classic channel routing on a grid of characters.
//!
//! Columns that lead to exactly the same columns share one horizontal line, for each of them does
//! lead to each of those: a fan-out, a join, or all to all. Every other line has a track of its own.
//! `┼ ├ ┤ ┬ ┴` join lines; where lines only cross, the vertical one passes unbroken (`─│─`). A line
//! from above and a line to below in the same column would look joined, so that the upper one must
//! turn away first; where that is impossible there is no channel, and the caller draws a list.

use std::collections::{BTreeMap, BTreeSet};

/// A character of the channel: line, column, and what to write.
pub(super) type Stroke = (usize, usize, char);

/// The lines of a channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Channel {
    /// Lines of text, at least 1.
    pub(super) height: usize,
    /// What to write.
    pub(super) strokes: Vec<Stroke>,
}

/// Columns above that all lead to the same columns below.
#[derive(Debug)]
struct Net {
    tops: Vec<usize>,
    bottoms: Vec<usize>,
    /// The line of its horizontal part; none for a straight line down.
    track: Option<usize>,
}

impl Net {
    fn is_straight(&self) -> bool {
        self.tops.len() == 1 && self.tops == self.bottoms
    }

    /// Leftmost and rightmost column.
    fn span(&self) -> (usize, usize) {
        let columns = || self.tops.iter().chain(&self.bottoms).copied();
        (columns().min().unwrap_or(0), columns().max().unwrap_or(0))
    }
}

/// Routes links, each from a column above to a column below; `None` if they cannot be told apart.
pub(super) fn route(links: &[(usize, usize)]) -> Option<Channel> {
    let mut nets = nets(links);
    assign_tracks(&mut nets)?;
    let tracks = nets.iter().filter_map(|net| net.track).max().map_or(0, |last| last + 1);
    let mut pen = Pen { height: std::cmp::max(tracks, 1), cells: BTreeMap::new() };
    nets.iter().for_each(|net| pen.across(net));
    nets.iter().for_each(|net| pen.down_to_track(net));
    pen.down_from_tracks(&nets);
    let strokes = pen.cells.into_iter().map(|((line, column), arms)| (line, column, glyph(arms)));
    Some(Channel { height: pen.height, strokes: strokes.collect() })
}

fn nets(links: &[(usize, usize)]) -> Vec<Net> {
    let mut bottoms_of: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for &(top, bottom) in links {
        bottoms_of.entry(top).or_default().insert(bottom);
    }
    let mut tops_of: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
    for (top, bottoms) in bottoms_of {
        tops_of.entry(bottoms.into_iter().collect()).or_default().push(top);
    }
    let nets = tops_of.into_iter();
    nets.map(|(bottoms, tops)| Net { tops, bottoms, track: None }).collect()
}

/// Gives each net the first track below those it must stay under where nothing else is in its way.
fn assign_tracks(nets: &mut [Net]) -> Option<()> {
    let mut waiting: Vec<usize> = (0..nets.len()).filter(|&net| !nets[net].is_straight()).collect();
    // Long lines last: they would push the short ones away from their boxes.
    waiting.sort_by_key(|&net| nets[net].span().1 - nets[net].span().0);
    while !waiting.is_empty() {
        let free = |&net: &usize| waiting.iter().all(|&other| !must_precede(&nets[other], &nets[net]));
        let next = waiting.iter().position(free)?;
        let net = waiting.remove(next);
        let (left, right) = nets[net].span();
        let after = |other: &Net| other.track.filter(|_| must_precede(other, &nets[net])).map_or(0, |track| track + 1);
        let mut track = nets.iter().map(after).max().unwrap_or(0);
        let taken = |track: usize| {
            let others = nets.iter().filter(|other| other.track == Some(track)).map(Net::span);
            others.into_iter().any(|other| other.0 <= right + 1 && left <= other.1 + 1)
        };
        while taken(track) {
            track += 1;
        }
        nets[net].track = Some(track);
    }
    Some(())
}

/// Whether `upper` comes down in a column where `lower` goes on, so that it has to turn away first.
fn must_precede(upper: &Net, lower: &Net) -> bool {
    !std::ptr::eq(upper, lower) && upper.tops.iter().any(|top| lower.bottoms.contains(top))
}

const UP: u8 = 1;
const DOWN: u8 = 2;
const LEFT: u8 = 4;
const RIGHT: u8 = 8;

/// Draws arms into cells.
struct Pen {
    height: usize,
    cells: BTreeMap<(usize, usize), u8>,
}

impl Pen {
    fn add(&mut self, line: usize, column: usize, arms: u8) {
        *self.cells.entry((line, column)).or_default() |= arms;
    }

    /// A vertical line that passes whatever runs across.
    fn pass(&mut self, line: usize, column: usize) {
        self.cells.insert((line, column), UP | DOWN);
    }

    fn across(&mut self, net: &Net) {
        let Some(track) = net.track else { return };
        let (left, right) = net.span();
        for column in left..right {
            self.add(track, column, RIGHT);
            self.add(track, column + 1, LEFT);
        }
    }

    fn down_to_track(&mut self, net: &Net) {
        let Some(track) = net.track else { return };
        for &top in &net.tops {
            (0..track).for_each(|line| self.pass(line, top));
            self.add(track, top, UP);
        }
    }

    /// The vertical line into each column below, from the first track that leads there.
    fn down_from_tracks(&mut self, nets: &[Net]) {
        let mut tracks_of: BTreeMap<usize, BTreeSet<Option<usize>>> = BTreeMap::new();
        for net in nets {
            for &bottom in &net.bottoms {
                tracks_of.entry(bottom).or_default().insert(net.track);
            }
        }
        for (bottom, tracks) in tracks_of {
            // No track sorts first: a straight line begins at the top.
            let first = tracks.first().copied().flatten();
            if let Some(track) = first {
                self.add(track, bottom, DOWN);
            }
            for line in first.map_or(0, |track| track + 1)..self.height {
                if tracks.contains(&Some(line)) {
                    self.add(line, bottom, UP | DOWN);
                } else {
                    self.pass(line, bottom);
                }
            }
        }
    }
}

fn glyph(arms: u8) -> char {
    const GLYPHS: [char; 16] =
        [' ', '│', '│', '│', '─', '╯', '╮', '┤', '─', '╰', '╭', '├', '─', '┴', '┬', '┼'];
    GLYPHS[usize::from(arms & 15)]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;

    fn drawn(links: &[(usize, usize)]) -> Vec<String> {
        let channel = route(links).unwrap();
        let mut lines = vec![vec![' '; 12]; channel.height];
        channel.strokes.iter().for_each(|&(line, column, glyph)| lines[line][column] = glyph);
        lines.into_iter().map(|line| line.into_iter().collect::<String>().trim_end().to_owned()).collect()
    }

    #[test]
    fn fan_join_and_all_to_all_need_one_line() {
        assert_eq!(drawn(&[(4, 4)]), ["    │"]);
        assert_eq!(drawn(&[(4, 0), (4, 4), (4, 8)]), ["╭───┼───╮"]);
        assert_eq!(drawn(&[(0, 4), (8, 4)]), ["╰───┬───╯"]);
        assert_eq!(drawn(&[(0, 0), (0, 8), (8, 0), (8, 8)]), ["├───────┤"]);
    }

    #[test]
    fn lines_that_only_cross_are_not_joined() {
        assert_eq!(drawn(&[(0, 8), (4, 2)]), ["│ ╭─╯", "╰─│─────╮"]);
        assert_eq!(drawn(&[(0, 8), (4, 4)]), ["╰───│───╮"]);
    }

    #[test]
    fn a_line_joins_another_that_ends_in_the_same_box() {
        assert_eq!(drawn(&[(0, 0), (6, 0), (6, 9)]), ["├─────┴──╮"]);
    }

    #[test]
    fn columns_shared_by_strangers_are_kept_apart_or_refused() {
        assert_eq!(drawn(&[(0, 4), (4, 8)]), ["│   ╰───╮", "╰───╮   │"]);
        assert_eq!(route(&[(0, 4), (4, 0)]), None);
    }
}
