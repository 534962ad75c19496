//! What the one copy of the data would do.

use std::fmt::Debug;
use std::hash::Hash;

/// A sequential object, by key.
pub trait Model {
    /// Operations on different keys do not affect each other.
    type Key: Ord + Clone + Debug;
    /// The object under one key. Equal states behave alike for ever.
    type State: Clone + Eq + Hash + Debug;
    /// What a client asks for. Equal operations are interchangeable.
    type Operation: Eq + Debug;
    /// What a client is told.
    type Outcome: Eq + Debug;

    /// The key that `operation` is about.
    fn key_of(&self, operation: &Self::Operation) -> Self::Key;

    /// The state before the first operation.
    fn initial(&self) -> Self::State;

    /// The state after `operation`, if it may answer `outcome` in `state`; `None`
    /// if it may not. Without an outcome the operation takes effect and its answer
    /// is lost, which must be possible in every state.
    ///
    /// An answer that the object chooses freely (an id, say) is modelled by a
    /// state that leaves it open until an answer shows it.
    fn step(
        &self,
        state: &Self::State,
        operation: &Self::Operation,
        outcome: Option<&Self::Outcome>,
    ) -> Option<Self::State>;

    /// Whether `operation`, answered with `outcome`, leaves every state as it is in
    /// which it fits, among `state` and those that can come after it. A read does; a
    /// write of what is there already does not, since it changes later states.
    /// Saying so saves the search much work; saying so wrongly makes it wrong.
    fn only_observes(
        &self,
        _state: &Self::State,
        _operation: &Self::Operation,
        _outcome: &Self::Outcome,
    ) -> bool {
        false
    }
}
