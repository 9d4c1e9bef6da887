//! Breakages that the checkers have to notice.
