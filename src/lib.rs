//! Maypole: a WSGI server for very many clients.

pub mod cli;
pub mod config;
pub mod handler;
pub mod http;
pub mod log;
pub mod pool;
pub mod spool;
pub mod sys;
