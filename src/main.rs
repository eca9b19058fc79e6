//! The stand-alone binary: runs the command line and then a serving process.

use std::process::ExitCode;

use maypole::sys::fork_alone;

fn main() -> ExitCode {
    if let Some(link) = maypole::sys::take_variable(maypole::link::VARIABLE) {
        return maypole::worker::run_linked(&link).into();
    }
    maypole::cli::run(std::env::args_os(), |config| {
        // At this point the process has one thread, and Python is not started.
        maypole::worker::run_behind_init(&config, fork_alone);
        maypole::worker::serve(&config, maypole::worker::ServeOptions::default())
    })
    .into()
}
