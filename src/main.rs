//! The binary: reads the settings, starts the log, serves, and turns the result into an exit code.

use std::process::ExitCode;

use bobbin::settings::{CliAction, Settings};
use bobbin::tools::{self, check, import};
use bobbin::{logging, server};
use dlmalloc::GlobalDlmalloc;

/// glibc's allocator keeps for each thread what it once freed, some 8 KiB a session; this one keeps for all together.
#[global_allocator]
static HEAP: GlobalDlmalloc = GlobalDlmalloc;

/// `EX_USAGE` is 64, but a wrong setting has been 2 since the first shells.
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
