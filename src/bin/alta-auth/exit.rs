//! Exit statuses, one list for all subcommands. Those from 64 on are those of sysexits.h and of the shell.

/// Done; `check`: allow.
pub(crate) const SUCCESS: u8 = 0;
/// `check`: deny.
pub(crate) const DENY: u8 = 1;
/// `verify`: some lines are bad. `demo`: something was not as expected.
pub(crate) const FAILED: u8 = 1;
/// The backend gave no answer: decided by the default action, or by what it had said before.
pub(crate) const UNDETERMINED: u8 = 2;
/// `check --probe`: the backend allows without a valid token.
pub(crate) const TOO_LAX: u8 = 3;
/// The command line or the configuration is wrong.
pub(crate) const USAGE: u8 = 64;
/// The input cannot be opened.
pub(crate) const NO_INPUT: u8 = 66;
/// The system refused a thread, a descriptor, an address.
pub(crate) const SYSTEM: u8 = 71;
/// The input cannot be read on, or the output cannot be written.
pub(crate) const IO: u8 = 74;
/// SIGINT or SIGTERM; what was in flight has been decided.
pub(crate) const INTERRUPTED: u8 = 130;
/// Nobody reads the output any more, as if SIGPIPE had ended the process.
pub(crate) const CLOSED_OUTPUT: u8 = 141;
