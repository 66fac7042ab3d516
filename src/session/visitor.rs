//! Who is at the other end of a connection, as far as known before a join.

use std::net::IpAddr;
use std::sync::Arc;

use crate::limits::Account;

/// The client's address, as reported by trusted proxies.
pub struct Visitor {
    /// What that address has used recently.
    pub address: IpAddr,
    /// The name given by a trusted proxy; the client cannot choose another.
    pub account: Arc<Account>,
    /// The name that a trusted proxy gives it; no other can be chosen then.
    pub user: Option<Arc<str>>,
}
