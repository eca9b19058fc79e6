//! The stand-alone binary: runs the command line and then a serving process, or a supervisor.

use std::ffi::OsString;
use std::process::ExitCode;

use maypole::config::{self, Evaluator};
use maypole::sys::{self, Program};
use maypole::{cli, directory, evaluation, link, supervisor, worker};

fn main() -> ExitCode {
    sys::end_at_crashes();
    if let Some(link) = sys::take_variable(link::VARIABLE) {
        return worker::run_linked(&link).into();
    }
    if let Some(file) = sys::take_variable(config::EVALUATION_VARIABLE) {
        return evaluation::run(&file).into();
    }
    supervisor::prepare();
    let kept = sys::take_variable(worker::KEPT);
    let words: Vec<OsString> = std::env::args_os().collect();
    cli::run(words.clone(), &Evaluator::of_this_program(), |config| {
        if supervisor::is_needed(&config) {
            let callers = worker::close_kept(kept.as_ref());
            return supervisor::run(config, || Program::own(words.clone()), callers);
        }
        // At this point the process has one thread, and Python is not started.
        worker::run_behind_init(&config, sys::fork_alone);
        if config.is_of_directory() {
            return directory::serve(config);
        }
        worker::serve_command(&config, Program::own(words.clone()), kept)
    })
    .into()
}
