//! Settings.
mod common;
use common::*;
