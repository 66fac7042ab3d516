//! Who is at the other end, as far as it is known before a join.

use std::net::IpAddr;
use std::sync::Arc;

use crate::limits::Account;

/// Who is at the other end of a connection.
pub struct Visitor {
    /// Its address, as proxies that are believed give it.
    pub address: IpAddr,
    /// What that address has taken lately.
    pub account: Arc<Account>,
    /// The name that a trusted proxy gives it; no other can be chosen then.
    pub user: Option<Arc<str>>,
}
