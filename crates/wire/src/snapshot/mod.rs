//! The format of snapshots. Like that of the log it is never changed: a new
//! one is a module beside this one.

pub mod v1;
