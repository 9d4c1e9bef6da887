//! The style sheet of an SVG picture and the symbols of the states.
//!
//! Plain rules and no custom properties: renderers outside of browsers know no `var()`.

use std::fmt::Write;

use crate::plan::picture::palette::{self, Tint};
use crate::step::StateName;

/// What is the same on light and dark pages.
const FORM: &str = "\
.cp text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif}
.cp .cp-title{font-size:16px;font-weight:600}
.cp .cp-key{font-size:13px;font-weight:600}
.cp .cp-label,.cp .cp-note,.cp .cp-legend{font-size:11px}
.cp .cp-label{opacity:.85}
.cp .cp-note{text-anchor:end}
.cp .cp-box{stroke-width:1.5}
.cp .cp-running .cp-box{stroke-width:2.5}
.cp .cp-ready .cp-box,.cp .cp-skipped .cp-box{stroke-dasharray:5 3}
.cp .cp-icon{fill:none;stroke-width:1.8;stroke-linecap:round;stroke-linejoin:round}
.cp .cp-line{fill:none;stroke-width:1.4}
";

/// One symbol for each state, 16 pixels square; colours come from where they are used.
pub(super) const SYMBOLS: &str = "\
<defs>
<g id=\"cp-blocked\"><circle cx=\"8\" cy=\"8\" r=\"6\"/></g>
<g id=\"cp-ready\"><circle cx=\"8\" cy=\"8\" r=\"6\" stroke-dasharray=\"2.4 3.9\"/></g>
<g id=\"cp-running\"><circle cx=\"8\" cy=\"8\" r=\"6.5\"/><circle cx=\"8\" cy=\"8\" r=\"2.2\" stroke-width=\"4.4\"/></g>
<g id=\"cp-suspended\"><circle cx=\"8\" cy=\"8\" r=\"6.5\"/><path d=\"M6.2 5.6v4.8M9.8 5.6v4.8\"/></g>
<g id=\"cp-succeeded\"><path d=\"M2.5 8.5l4 4 7-8.5\" stroke-width=\"2.2\"/></g>
<g id=\"cp-failed\"><path d=\"M3.5 3.5l9 9M12.5 3.5l-9 9\" stroke-width=\"2.2\"/></g>
<g id=\"cp-skipped\"><path d=\"M2 11c1-7 9-8 11.5-2M13.8 4.8l-.3 4.2-4-.9\"/></g>
<g id=\"cp-cancelled\"><circle cx=\"8\" cy=\"8\" r=\"6.5\"/><path d=\"M3.6 12.4l8.8-8.8\"/></g>
</defs>
";

/// The whole `style` element.
pub(super) fn sheet() -> String {
    let mut out = format!("<style>\n{FORM}");
    let page = Page {
        paper: "#ffffff",
        ink: "#0f172a",
        line: "#94a3b8",
        tint: palette::light,
    };
    page.write(&mut out);
    out.push_str("@media (prefers-color-scheme:dark){\n");
    let page = Page {
        paper: "#0b1120",
        ink: "#e2e8f0",
        line: "#64748b",
        tint: palette::dark,
    };
    page.write(&mut out);
    out.push_str("}\n</style>\n");
    out
}

/// The colours of a page.
struct Page {
    paper: &'static str,
    ink: &'static str,
    line: &'static str,
    tint: fn(StateName) -> Tint,
}

impl Page {
    fn write(&self, out: &mut String) {
        let Self {
            paper,
            ink,
            line,
            tint,
        } = self;
        let _ = writeln!(out, ".cp .cp-page{{fill:{paper}}}");
        let _ = writeln!(
            out,
            ".cp .cp-line{{stroke:{line}}}.cp .cp-head{{fill:{line}}}"
        );
        for state in StateName::ALL {
            let (Tint { fill, line, text }, word) = (tint(state), state.as_str());
            let _ = write!(out, ".cp .cp-{word} .cp-box{{fill:{fill};stroke:{line}}}");
            let _ = write!(out, ".cp .cp-{word} .cp-icon{{stroke:{line}}}");
            let _ = writeln!(out, ".cp .cp-{word} text{{fill:{text}}}");
        }
        // After the states: the legend and the title stand on the page and not in a box.
        let _ = writeln!(out, ".cp .cp-title,.cp g .cp-legend{{fill:{ink}}}");
    }
}
