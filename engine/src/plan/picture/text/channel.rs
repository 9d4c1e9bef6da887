//! The lines between two rows of boxes: classic channel routing on a grid of characters.
//!
//! A net joins columns above with columns below, each with each. Its horizontal part has a track;
//! `┼ ├ ┤ ┬ ┴` join lines of one net, and where lines of two nets cross the vertical one passes
//! unbroken (`─│─`). Nets never touch: whoever follows a line arrives at a true need. A line from
//! above and a line to below in the same column would look joined, so that the upper one must turn
//! away first; where that is impossible there is no channel.

use std::collections::BTreeMap;

/// A character of the channel: line, column, and what to write.
pub(super) type Stroke = (usize, usize, char);

/// Columns above that all lead to the same columns below. No two nets of a channel share a column
/// above, or one below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Net {
    /// Columns above, at least one.
    pub(super) tops: Vec<usize>,
    /// Columns below, at least one.
    pub(super) bottoms: Vec<usize>,
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

    /// Whether it comes down in a column where `lower` goes on, so that it has to turn away first.
    fn must_precede(&self, lower: &Self) -> bool {
        self != lower && self.tops.iter().any(|top| lower.bottoms.contains(top))
    }
}

/// The lines of a channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Channel {
    /// Lines of text, at least 1.
    pub(super) height: usize,
    /// What to write.
    pub(super) strokes: Vec<Stroke>,
}

/// Routes nets; `None` if some would have to touch.
pub(super) fn route(nets: &[Net]) -> Option<Channel> {
    let tracks = assign_tracks(nets)?;
    let height = tracks.iter().flatten().max().map_or(1, |last| last + 1);
    let mut pen = Pen {
        height,
        cells: BTreeMap::new(),
    };
    // Across before down, because what comes down passes unbroken.
    for (net, track) in nets.iter().zip(&tracks) {
        pen.across(net, *track);
    }
    for (net, track) in nets.iter().zip(&tracks) {
        pen.down(net, *track);
    }
    let strokes = pen
        .cells
        .into_iter()
        .map(|((line, column), arms)| (line, column, glyph(arms)));
    Some(Channel {
        height,
        strokes: strokes.collect(),
    })
}

/// For each net the first track below those it must stay under where nothing else is in its way;
/// none for a straight line.
fn assign_tracks(nets: &[Net]) -> Option<Vec<Option<usize>>> {
    let mut tracks: Vec<Option<usize>> = vec![None; nets.len()];
    let mut waiting: Vec<usize> = (0..nets.len())
        .filter(|&net| !nets[net].is_straight())
        .collect();
    // Long lines last: they would push the short ones away from their boxes.
    waiting.sort_by_key(|&net| nets[net].span().1 - nets[net].span().0);
    while !waiting.is_empty() {
        let is_free = |&net: &usize| {
            !waiting
                .iter()
                .any(|&other| nets[other].must_precede(&nets[net]))
        };
        let next = waiting.iter().position(is_free)?;
        let chosen = waiting.remove(next);
        let placed = || {
            nets.iter()
                .zip(&tracks)
                .filter_map(|(other, track)| Some((other, (*track)?)))
        };
        let above = placed().filter(|(other, _)| other.must_precede(&nets[chosen]));
        let first = above.map(|(_, track)| track + 1).max().unwrap_or(0);
        let (left, right) = nets[chosen].span();
        let is_near = |other: &Net| other.span().0 <= right + 1 && left <= other.span().1 + 1;
        let is_taken =
            |track: usize| placed().any(|(other, taken)| taken == track && is_near(other));
        tracks[chosen] = (first..=first + nets.len()).find(|&track| !is_taken(track));
    }
    Some(tracks)
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
    fn pass(&mut self, lines: std::ops::Range<usize>, column: usize) {
        self.cells
            .extend(lines.map(|line| ((line, column), UP | DOWN)));
    }

    fn across(&mut self, net: &Net, track: Option<usize>) {
        let Some(track) = track else { return };
        let (left, right) = net.span();
        for column in left..right {
            self.add(track, column, RIGHT);
            self.add(track, column + 1, LEFT);
        }
    }

    fn down(&mut self, net: &Net, track: Option<usize>) {
        let Some(track) = track else {
            return self.pass(0..self.height, net.tops[0]);
        };
        for &top in &net.tops {
            self.pass(0..track, top);
            self.add(track, top, UP);
        }
        for &bottom in &net.bottoms {
            self.add(track, bottom, DOWN);
            self.pass(track + 1..self.height, bottom);
        }
    }
}

fn glyph(arms: u8) -> char {
    const GLYPHS: [char; 16] = [
        ' ', '│', '│', '│', '─', '╯', '╮', '┤', '─', '╰', '╭', '├', '─', '┴', '┬', '┼',
    ];
    GLYPHS[usize::from(arms & 15)]
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;

    fn nets(nets: &[(&[usize], &[usize])]) -> Vec<Net> {
        let net = |(tops, bottoms): &(&[usize], &[usize])| Net {
            tops: tops.to_vec(),
            bottoms: bottoms.to_vec(),
        };
        nets.iter().map(net).collect()
    }

    fn drawn(all: &[(&[usize], &[usize])]) -> Vec<String> {
        let channel = route(&nets(all)).unwrap();
        let mut lines = vec![vec![' '; 12]; channel.height];
        for (line, column, glyph) in channel.strokes {
            lines[line][column] = glyph;
        }
        lines
            .iter()
            .map(|line| line.iter().collect::<String>().trim_end().to_owned())
            .collect()
    }

    #[test]
    fn fan_join_and_all_to_all_need_one_line() {
        assert_eq!(drawn(&[(&[4], &[4])]), ["    │"]);
        assert_eq!(drawn(&[(&[4], &[0, 4, 8])]), ["╭───┼───╮"]);
        assert_eq!(drawn(&[(&[0, 8], &[4])]), ["╰───┬───╯"]);
        assert_eq!(drawn(&[(&[0, 8], &[0, 8])]), ["├───────┤"]);
    }

    #[test]
    fn lines_that_only_cross_are_not_joined() {
        assert_eq!(drawn(&[(&[0], &[8]), (&[4], &[2])]), ["│ ╭─╯", "╰─│─────╮"]);
        assert_eq!(drawn(&[(&[0], &[8]), (&[4], &[4])]), ["╰───│───╮"]);
    }

    #[test]
    fn columns_shared_by_strangers_are_kept_apart_or_refused() {
        assert_eq!(
            drawn(&[(&[0], &[4]), (&[4], &[8])]),
            ["│   ╰───╮", "╰───╮   │"]
        );
        assert_eq!(route(&nets(&[(&[0], &[4]), (&[4], &[0])])), None);
    }
}
