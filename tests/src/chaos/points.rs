//! Every crash point once.
