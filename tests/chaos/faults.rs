//! Scenarios built from the fault test's parts, each with a specific question: what do other clients notice of a
//! rolling restart, of a frozen or killed instance, of a drain under full load, of slow clients, of 2,000 simultaneous
//! joins?
//!
//! The fault test checks the final state; these check what was visible in the meantime.

#![allow(dead_code)] // each of the two programs uses some of the modules

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
