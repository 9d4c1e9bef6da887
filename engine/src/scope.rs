//! Whose data a call may touch.

use crate::id::UserId;

/// The right to touch one user's data. Every function that reads or writes user data takes one.
///
/// It comes from two places only: a verified token (`api/src/auth.rs`) and a claimed step. `cargo
/// xtask tidy` refuses a third.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserScope(UserId);

impl UserScope {
    /// Vouches that the caller acts for this user.
    pub fn vouched(user: UserId) -> Self {
        Self(user)
    }

    /// The user.
    pub fn user(self) -> UserId {
        self.0
    }
}
