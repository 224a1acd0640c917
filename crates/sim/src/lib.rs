//! Whole clusters on one thread, from a seed
