//! The format of log entries. Old logs are inputs for ever: a new format is a
//! module beside this one, never a change of it.

pub mod v1;
