//! A plan drawn: Mermaid, Graphviz, SVG, and text for the terminal.
//!
//! A picture is made of what the caller may see and of nothing else; it knows neither rows nor
//! clocks. Labels are somebody's words and never trusted: each format escapes them, and control and
//! direction characters are replaced before any format sees them (`label`). The place of a box
//! depends on keys, labels and needs only, so that a picture drawn again after a change of states
//! or notes looks the same but for colours, symbols and notes.
//!
//! A graph that is not one (unknown needs, cycles) is drawn without the impossible lines rather
//! than refused: `graph::check` has refused it before, and a picture is for looking.

mod dot;
mod label;
mod layout;
mod mermaid;
mod palette;
mod place;
mod svg;
mod text;

pub use text::Colour;

use serde::{Deserialize, Serialize};

use crate::step::StateName;

/// What there is to draw.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Picture {
    /// One line above the picture, usually the plan's goal. Empty: none.
    pub title: String,
    /// The steps, in the plan's order; it breaks all ties.
    pub nodes: Vec<PictureNode>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PictureNode {
    /// The step's key, unique in the picture; of two equal ones needs mean the first.
    pub key: String,
    /// Who does it: the agent's name. May be empty.
    pub label: String,
    /// What kind of step it is, for tooltips. May be empty.
    pub kind: String,
    /// Its state, which gives the colour and the symbol.
    pub state: StateName,
    /// Keys of the steps that it waits for.
    pub needs: Vec<String>,
    /// What is worth saying at the moment, in a word or two: "attempt 2", "1.2 s".
    pub note: Option<String>,
}

/// The symbol of a state: one column wide in a terminal, and told apart without colour.
pub fn symbol(state: StateName) -> char {
    match state {
        StateName::Blocked => '○',
        StateName::Ready => '◌',
        StateName::Running => '●',
        StateName::Suspended => '⏸',
        StateName::Succeeded => '✔',
        StateName::Failed => '✖',
        StateName::Skipped => '⤼',
        StateName::Cancelled => '⊘',
    }
}

impl Picture {
    /// A Mermaid flowchart. Renderers draw up to 500 lines by default (`maxEdges`).
    pub fn to_mermaid(&self) -> String {
        mermaid::draw(self)
    }

    /// A Graphviz digraph.
    pub fn to_dot(&self) -> String {
        dot::draw(self)
    }

    /// A complete SVG document, for light and dark surroundings, without scripts and without
    /// anything from elsewhere.
    pub fn to_svg(&self) -> String {
        svg::draw(self)
    }

    /// Lines for a terminal of `width` columns, each ended by a newline. Boxes and lines where they
    /// fit and are few enough to take in, else a list that names the needs. The number of lines and
    /// all places stay the same while only states and notes change.
    pub fn to_text(&self, width: usize, colour: Colour) -> String {
        text::draw(self, width, colour)
    }

    /// The states that occur, with their numbers, in the order of [`StateName::ALL`].
    fn census(&self) -> impl Iterator<Item = (StateName, usize)> {
        let count = |state| self.nodes.iter().filter(|node| node.state == state).count();
        let counted = StateName::ALL
            .into_iter()
            .map(move |state| (state, count(state)));
        counted.filter(|(_, count)| *count > 0)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
mod tests {
    use super::*;

    /// A picture of `key: needs` clauses; states go round, the first step has a note.
    pub(super) fn picture(text: &str) -> Picture {
        let clauses = text
            .split(';')
            .map(|clause| clause.split_once(':').unwrap());
        let nodes = clauses
            .enumerate()
            .map(|(index, (key, needs))| PictureNode {
                key: key.trim().to_owned(),
                label: "agent".to_owned(),
                kind: "agent".to_owned(),
                state: StateName::ALL[(index + 4) % 8],
                needs: needs.split_whitespace().map(str::to_owned).collect(),
                note: (index == 0).then(|| "1.2 s".to_owned()),
            });
        Picture {
            title: "A plan".to_owned(),
            nodes: nodes.collect(),
        }
    }

    /// Words that try to leave the place they are given.
    pub(super) const HOSTILE: [&str; 14] = [
        "\"] --> evil[\"x",
        "</title><script>alert(1)</script>",
        "]]><svg onload=alert(1)>",
        "`**bold**` #quot; #35; &amp; &#60;",
        "end\nclick n0 href \"javascript:alert(1)\"",
        "%%{init: {\"securityLevel\":\"loose\"}}%%",
        "--- title: x ---",
        "\\\" ]; evil -> n0; x [label=\"",
        "\\N\\G\\l\\",
        "\u{202e}gpj.exe\u{2066}",
        "\u{1b}[31mred\u{1b}]0;title\u{7}\u{0}\u{85}",
        "\u{fb02}\u{b0}\u{b0}60\u{b6}\u{df}script",
        "fa:fa-trash {a} |b| (c) <<d>> @{ shape: circle }",
        "{{x}} ${y} <%= z %> \u{2028}\u{2029}\u{ffff}",
    ];

    /// Every hostile word in every place that takes words.
    pub(super) fn hostile() -> Picture {
        let node = |word: &str| PictureNode {
            key: word.to_owned(),
            label: word.to_owned(),
            kind: word.to_owned(),
            state: StateName::Running,
            needs: vec![HOSTILE[0].to_owned()],
            note: Some(word.to_owned()),
        };
        Picture {
            title: HOSTILE.join(" "),
            nodes: HOSTILE.map(node).to_vec(),
        }
    }

    /// Many steps, each with a few needs near and one far away.
    pub(super) fn large(count: usize) -> Picture {
        let needs = |step: usize| {
            let needs = [
                step.checked_sub(1),
                step.checked_sub(7),
                step.checked_sub(step / 2 + 1),
            ];
            needs
                .map(|need| need.map_or_else(String::new, |need| format!("s{need}")))
                .join(" ")
        };
        let clauses: Vec<_> = (0..count)
            .map(|step| format!("s{step}: {}", needs(step * usize::from(step % 5 > 0))))
            .collect();
        picture(&clauses.join(";"))
    }

    #[test]
    fn two_thousand_steps_and_none_are_drawn_in_every_format() {
        for picture in [Picture::default(), large(2_000), hostile()] {
            let text = picture.to_text(80, Colour::Always);
            let drawn = [
                text,
                picture.to_svg(),
                picture.to_dot(),
                picture.to_mermaid(),
            ];
            assert!(drawn.iter().all(|drawn| drawn.ends_with('\n')));
        }
    }

    #[test]
    fn places_stay_when_states_and_notes_change() {
        let before = picture("a:; b: a; c: a; d: b c; e: a d");
        let mut after = before.clone();
        for node in &mut after.nodes {
            (node.state, node.note) = (StateName::Succeeded, Some("attempt 2".to_owned()));
        }
        let frame = |picture: &Picture| {
            let text = picture.to_text(80, Colour::Never);
            let lines = text.lines().filter(|line| line.contains(['╭', '╰', '│']));
            lines
                .map(|line| {
                    line.replace(|char| !"╭╮╰╯│─┬┴▼├┤┼".contains(char), " ")
                        .trim_end()
                        .to_owned()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(frame(&before), frame(&after));
        let boxes = |picture: &Picture| -> Vec<String> {
            let svg = picture.to_svg();
            svg.split("<rect ")
                .map(|rect| rect.split('>').next().unwrap().to_owned())
                .skip(1)
                .collect()
        };
        assert_eq!(
            boxes(&before)[1..],
            boxes(&after)[1..],
            "all but the page, for its legend has fewer lines"
        );
    }

    #[test]
    fn every_state_appears_in_every_format() {
        let picture = picture("a:; b: a; c: a; d: a; e: b; f: b; g: e; h: g");
        for state in StateName::ALL {
            let word = state.as_str();
            assert!(picture.to_mermaid().contains(&format!(":::{word}\n")));
            assert!(picture.to_dot().contains(&format!(": {word}, agent")));
            assert!(picture.to_svg().contains(&format!("href=\"#cp-{word}\"")));
            assert!(picture.to_text(80, Colour::Never).contains(symbol(state)));
            let coloured = picture.to_text(120, Colour::Always);
            assert!(
                coloured.contains(&format!("{} 1 {word}", symbol(state))),
                "{coloured}"
            );
        }
    }
}
