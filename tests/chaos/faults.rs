//! Single scenarios out of the fault test's world, each with its own sharp question: what do the others notice of a
//! rolling restart, of a frozen or killed instance, of a drain under full talk, of slow clients, of 2,000 who come at once?
//!
//! The fault test asks whether everything is right in the end; these ask what was seen meanwhile.

#![allow(dead_code)] // each of the two programs takes what it needs of the modules

mod arena;
mod breaking;
mod checker;
mod client;
mod clock;
mod cluster;
mod fault;
mod folder;
mod inspect;
mod ledger;
mod pair;
mod process;
mod proxy;
mod report;
mod resp;
mod rng;
mod schedule;
mod session;
mod stage;
mod story;
mod strangers;
mod wire;

#[path = "../common/mod.rs"]
#[macro_use]
mod common;

mod scenarios;
