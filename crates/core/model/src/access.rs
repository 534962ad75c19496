//! Who may do what: the roles of people, what certificates are for, and what a
//! token gives to whoever holds its secret. Secrets, keys and certificates
//! themselves are not known here.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::name::Name;

/// Namespaces that one token may name: a token for more of them is better one
/// for all, and the row stays small.
pub const NAMESPACES_MAX: usize = 32;

/// What a person may do. Each role includes those before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Role {
    /// Sees jobs, nodes and logs.
    Read,
    /// Submits, changes and stops jobs.
    Submit,
    /// Takes nodes out of work, changes the schedulers, saves the state.
    Operate,
    /// Gives and takes away access.
    Admin,
}

/// What a certificate is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Machine {
    /// A scheduler.
    Server,
    Agent,
    Gateway,
    /// A person's program.
    Client,
}

/// A token, by a random number that is no secret. Written as 16 lower-case hex
/// digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TokenId(pub u64);

/// Where a person's role counts.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Scope {
    All,
    Namespaces(BTreeSet<Name>),
}

/// Lets one machine into the cluster.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct JoinGrant {
    pub machine: Machine,
    /// The only name that the machine may take; absent: it chooses one.
    pub name: Option<Name>,
    /// The only pool that the machine may belong to; absent: it chooses one.
    pub pool: Option<Name>,
}

/// What a token gives.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Grant {
    Person { role: Role, scope: Scope },
    Join(JoinGrant),
}

/// Why a text is no role, no machine or no id of a token.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum ParseAccessError {
    #[error("expected a role (read, submit, operate or admin), found `{0}`")]
    NotARole(String),
    #[error("expected server, agent, gateway or client, found `{0}`")]
    NotAMachine(String),
    #[error("expected the id of a token, 16 of 0-9 and a-f, found `{0}`")]
    NotATokenId(String),
}

impl Role {
    const ALL: [Role; 4] = [Role::Read, Role::Submit, Role::Operate, Role::Admin];

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Submit => "submit",
            Role::Operate => "operate",
            Role::Admin => "admin",
        }
    }
}

impl Machine {
    const ALL: [Machine; 4] = [Machine::Server, Machine::Agent, Machine::Gateway, Machine::Client];

    pub fn as_str(self) -> &'static str {
        match self {
            Machine::Server => "server",
            Machine::Agent => "agent",
            Machine::Gateway => "gateway",
            Machine::Client => "client",
        }
    }
}

impl Scope {
    /// Whether it holds in `namespace`. Names are compared whole: neither a
    /// beginning nor a pattern of one counts.
    pub fn allows(&self, namespace: &Name) -> bool {
        match self {
            Scope::All => true,
            Scope::Namespaces(names) => names.contains(namespace),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:016x}", self.0)
    }
}

impl FromStr for Role {
    type Err = ParseAccessError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let role = Role::ALL.into_iter().find(|role| role.as_str() == text);
        role.ok_or_else(|| ParseAccessError::NotARole(text.to_owned()))
    }
}

impl FromStr for Machine {
    type Err = ParseAccessError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let machine = Machine::ALL.into_iter().find(|machine| machine.as_str() == text);
        machine.ok_or_else(|| ParseAccessError::NotAMachine(text.to_owned()))
    }
}

impl FromStr for TokenId {
    type Err = ParseAccessError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || ParseAccessError::NotATokenId(text.to_owned());
        let id = u64::from_str_radix(text, 16).map(TokenId).map_err(|_| refuse())?;
        // A sign, capitals and fewer digits make a number too, but not an id.
        if id.to_string() == text { Ok(id) } else { Err(refuse()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for role in Role::ALL {
            assert_eq!(role.as_str().parse(), Ok(role));
        }
        for machine in Machine::ALL {
            assert_eq!(machine.as_str().parse(), Ok(machine));
        }
        for number in [0, 0xbe27, u64::MAX] {
            assert_eq!(TokenId(number).to_string().parse(), Ok(TokenId(number)));
        }
        assert_eq!(TokenId(0xbe27).to_string(), "000000000000be27");
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in ["", "Read", "root", " admin", "reader"] {
            assert!(text.parse::<Role>().is_err(), "{text}");
            assert!(text.parse::<Machine>().is_err(), "{text}");
        }
        for text in [
            "",
            "be27",
            "000000000000BE27",
            "+00000000000be27",
            "0x0000000000be27",
            "g".repeat(16).as_str(),
        ] {
            assert!(text.parse::<TokenId>().is_err(), "{text}");
        }
        let error = "00000000000000000".parse::<TokenId>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "expected the id of a token, 16 of 0-9 and a-f, found `00000000000000000`"
        );
    }

    #[test]
    fn a_role_includes_those_before_it() {
        assert!(Role::Read < Role::Submit);
        assert!(Role::Submit < Role::Operate);
        assert!(Role::Operate < Role::Admin);
    }

    #[test]
    fn a_scope_holds_for_whole_names_only() {
        let name = |text| Name::new(text).unwrap();
        let scope = Scope::Namespaces(BTreeSet::from([name("team"), name("other")]));
        for (text, allowed) in
            [("team", true), ("other", true), ("team-a", false), ("tea", false), ("Team", false)]
        {
            assert_eq!(scope.allows(&name(text)), allowed, "{text}");
            assert!(Scope::All.allows(&name(text)));
        }
    }
}
