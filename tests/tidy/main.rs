//! Checks that hold the tree to its own rules: the module table, the form of files, and their words.

mod rooms;
mod sizes;
mod source;
mod words;
