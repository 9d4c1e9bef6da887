
//! later
