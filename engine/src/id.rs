//! Ids. The only place that makes them: `UUIDv7`, ordered by the time of their making.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, sqlx::Type)]
        #[serde(transparent)]
        #[sqlx(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id, later than all that this process made before.
            #[expect(clippy::new_without_default, reason = "a default id would hide that it is new each time")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Uuid {
                id.0
            }
        }
    )*};
}

ids! {
    /// A person.
    UserId,
    /// An agent of a person.
    AgentId,
    /// A conversation.
    SessionId,
    /// A line of a conversation.
    MessageId,
    /// A plan.
    PlanId,
    /// A step of a plan.
    StepId,
    /// Why a step is suspended.
    WaitId,
    /// Consent given ahead.
    GrantId,
    /// One claim loop of one worker process; new with each start.
    WorkerId,
}
