//! Checks that hold the tree to its own rules: the module table, and the form of a file.

mod rooms;
mod sizes;
mod source;
