//! Who is at the other end of a connection, as far as known before a join.

use std::net::IpAddr;
use std::sync::Arc;

use crate::limits::Account;
use crate::protocol;

/// The sender of a request, as far as it is known.
pub struct Visitor {
    /// The client's address, as reported by trusted proxies.
    pub address: IpAddr,
    /// The address as which it takes turns with others.
    pub turn: IpAddr,
    /// What that address has used recently.
    pub account: Arc<Account>,
    /// The name given by a trusted proxy; the client cannot choose another.
    pub user: Option<Arc<str>>,
}

impl Visitor {
    /// The mark of a user named by a proxy, who is the same person on all devices.
    pub fn mark(&self) -> Option<String> {
        // A client's secret cannot contain a colon.
        self.user.as_ref().map(|user| protocol::mark(&format!("user:{user}")))
    }
}
