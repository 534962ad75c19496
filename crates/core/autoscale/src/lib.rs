//! How many replicas a service is to have, as values from values: the same code at the leader and
//! in the simulator. It refuses to read a clock, to draw a random number or to ask anybody: what is
//! measured and the moment are arguments.
//!
//! What holds whatever is measured:
//! - the number stays between `min` and `max`, and changes no faster than its pace allows;
//! - what is not known takes nothing away: who has not told counts as full when there are to be
//!   fewer, and as idle when there are to be more; where nobody tells anything nothing changes;
//! - replicas that are on their way are counted: what they will carry is not asked for again;
//! - nothing is taken away before the whole window for that was watched, so a new leader does not
//!   begin with it.

#![forbid(unsafe_code)]

mod law;
mod measured;
mod pace;
mod scaler;

pub use measured::{Measure, Measured};
pub use scaler::{Change, Scaler, Seen, Why};
