//! What meshd must do, seen from outside: its binaries, its files, its HTTP surface, its agents' conversation.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail the test that calls them"
)]

mod access_rules;
mod agents;
mod alerts;
mod at_rest;
mod backup;
mod board;
mod budgets;
mod bus;
mod capabilities;
mod chaos;
mod claims;
mod contract;
mod crash;
mod declines;
mod demo;
mod dependencies;
mod effects;
mod egress;
mod escalation;
mod escapes;
mod export_sql;
mod faults;
mod formats;
mod gates;
mod governance;
mod grants;
mod handover;
mod homes;
mod hooks;
mod inbox;
mod limits;
mod owners;
mod permissions;
mod plans;
mod profiles;
mod programs;
mod proof_actions;
mod proof_attacks;
mod proof_audit;
mod proof_causes;
mod proof_cut;
mod proof_erasure;
mod proof_identity;
mod proof_keys;
mod proof_klp;
mod proof_refusals;
mod proof_succession;
mod proof_tiles;
mod proof_words;
mod recipients;
mod retention;
mod roles;
mod sandbox;
mod schedules;
mod secrets;
mod services;
mod sessions;
mod storage;
mod team_tasks;
mod tidy;
mod tls;
mod trust;
mod workflows;
