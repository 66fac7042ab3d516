//! The binary: reads the settings, starts the log, serves, and turns the result into an exit code.

use std::process::ExitCode;

use bobbin::settings::{CliAction, Settings};
use bobbin::tools::{self, check, import};
use bobbin::{logging, server};
use dlmalloc::GlobalDlmalloc;

/// glibc's allocator caches freed memory per thread, about 8 KiB per session; this one has a single shared heap.
#[global_allocator]
static HEAP: GlobalDlmalloc = GlobalDlmalloc;

/// By convention, as in shells, a usage error exits with 2 (`EX_USAGE` would be 64).
const WRONG_SETTING: u8 = 2;

fn main() -> ExitCode {
    let settings = match Settings::parse(std::env::args()) {
        Ok(CliAction::Serve(settings)) => *settings,
        Ok(CliAction::Healthcheck(address)) => return ExitCode::from(u8::from(!server::is_healthy(address))),
        Ok(CliAction::Check(settings)) => {
            let checked = check::run(settings.as_deref(), &mut std::io::stdout().lock());
            return checked.map_or(ExitCode::FAILURE, ExitCode::from);
        }
        Ok(CliAction::Import(call)) => {
            let Err(error) = import::run(&call, &mut std::io::stdout().lock()) else { return ExitCode::SUCCESS };
            eprintln!("bobbin: {error}");
            return ExitCode::FAILURE;
        }
        Ok(CliAction::Tool(call)) => {
            let Err(error) = tools::run(&call, &mut std::io::stdout().lock()) else { return ExitCode::SUCCESS };
            eprintln!("bobbin: {error}");
            return ExitCode::FAILURE;
        }
        Ok(CliAction::Print(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("bobbin: {error}");
            return ExitCode::from(WRONG_SETTING);
        }
    };
    logging::start(settings.log, settings.log_format);
    match server::run(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}
