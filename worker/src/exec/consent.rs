//! Whether a call may be made: by a rule of the person's, by the tool's own word, by a grant, by an approval.

use engine::{
    fault,
    step::claimed::Woken,
    store::{Consents, Grant},
    tool::{
        Risk,
        policy::{self, Proposal, Verdict},
    },
    wait::Decision,
};
use serde_json::{Value, json};

use crate::exec::{
    card::said,
    wanted::{Right, Wanted},
};

/// What becomes of a call of which nothing is known yet.
pub(super) enum Leave<'a> {
    /// It is made.
    Granted(Wanted<'a>, Right),
    /// It is not, and this is what the agent is told.
    Refused(Value),
    /// The person is asked.
    Ask(Wanted<'a>),
}

/// Decides over a call; `woken` is the end of a question about it, if there was one.
pub(super) fn leave<'a>(
    mut wanted: Wanted<'a>,
    agent: &str,
    consents: &Consents,
    woken: Option<&Woken>,
) -> Leave<'a> {
    // An answer holds only for what it was asked about: tool, version and arguments.
    let woken = woken.filter(|woken| {
        let holds = woken.decision != Decision::Superseded && wanted.is_what(woken);
        woken.approval() == Some("tool") && holds
    });
    if let Some(woken) = woken {
        let right = Right {
            approval: Some(woken.id),
            grant: None,
        };
        return match woken.decision {
            Decision::Approved => Leave::Granted(wanted, right),
            Decision::Edited => {
                if let Some(arguments) = said(woken, "arguments") {
                    wanted.arguments = arguments.clone();
                }
                Leave::Granted(wanted, right)
            }
            declined => Leave::Refused(json!({
                "declined": declined.as_str(), "note": said(woken, "note"),
            })),
        };
    }
    let proposal = Proposal {
        agent,
        tool: wanted.tool,
        arguments: &wanted.arguments,
    };
    match policy::decide(&consents.rules, proposal).0 {
        Verdict::Auto => Leave::Granted(wanted, Right::default()),
        Verdict::Deny => Leave::Refused(json!({
            "denied": "a rule of the person's refuses this call; do not try it again",
        })),
        Verdict::Ask if fault::mutant("consent_not_asked") => {
            Leave::Granted(wanted, Right::default())
        }
        Verdict::Ask => match covering(&wanted, &consents.grants) {
            Some(grant) => {
                let right = Right {
                    approval: None,
                    grant: Some(grant.id),
                };
                Leave::Granted(wanted, right)
            }
            None => Leave::Ask(wanted),
        },
    }
}

/// A grant that covers the call. Nothing of high risk is ever covered.
fn covering<'g>(wanted: &Wanted<'_>, grants: &'g [Grant]) -> Option<&'g Grant> {
    if wanted.tool.risk == Risk::High {
        return None;
    }
    let digest = wanted.digest();
    grants.iter().find(|grant| {
        grant.tool == wanted.tool.name
            && grant.tool_version == wanted.tool.version
            && grant.digest.as_ref().is_none_or(|own| *own == digest)
    })
}
