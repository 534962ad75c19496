//! What follows from the mix and from what there is of each kind of device: made when either
//! changes, read at every decision.

use std::sync::Arc;

use crate::mix::Mix;
use crate::roster::Roster;
use crate::scarcity::{Basis, Prices};
use crate::terms::Inputs;
use crate::unusable::MixTable;

/// The mix beside the kinds of devices, and the price of each of them.
#[derive(Clone, Default)]
pub(crate) struct Reckoned {
    mix: Arc<Mix>,
    table: MixTable,
    kinds: usize,
    /// What the prices were made of; `None` when the mix is another one since.
    basis: Option<Basis>,
    prices: Prices,
}

impl Reckoned {
    /// Takes a mix; true if that changes anything.
    pub fn take_mix(&mut self, mix: &Arc<Mix>, roster: &Roster) -> bool {
        let same = Arc::ptr_eq(&self.mix, mix) || self.mix == *mix;
        if same && roster.kinds.len() == self.kinds {
            return false;
        }
        self.mix = mix.clone();
        self.kinds = roster.kinds.len();
        self.table = MixTable::new(mix, &roster.kinds);
        self.basis = None;
        true
    }

    /// Takes in what there is of each kind now.
    pub fn take_stocks(&mut self, roster: &Roster) {
        let basis = Basis::of(roster.stocks(), roster.cpu());
        if self.basis.as_ref() != Some(&basis) {
            self.prices = Prices::new(&basis, &self.mix, &roster.kinds);
            self.basis = Some(basis);
        }
    }

    pub fn prices(&self) -> &Prices {
        &self.prices
    }

    pub fn inputs(&self) -> Inputs<'_> {
        Inputs { mix: &self.mix, table: &self.table, core_price: self.prices.of_core() }
    }
}
