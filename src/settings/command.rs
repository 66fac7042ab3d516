//! The command line: one flag per setting, and the subcommands.

use clap::{Arg, ArgAction, Command};

use super::{SPECS, is_secret, tools};

/// The clap command: flags, their variables, help and defaults.
pub fn command() -> Command {
    let with_flags = SPECS.iter().filter(|(variable, ..)| !is_secret(variable));
    let settings = with_flags.map(|(variable, default, help)| {
        let argument = Arg::new(*variable).long(flag(variable)).env(*variable).help(*help).value_name("VALUE");
        if default.is_empty() { argument } else { argument.default_value(*default) }.hide_env_values(true)
    });
    let healthcheck = Arg::new("healthcheck")
        .long("healthcheck")
        .action(ArgAction::SetTrue)
        .help("request /healthz from the server on PORT of this machine; exit code 0 or 1");
    let check = Arg::new("check").long("check").action(ArgAction::SetTrue).help(
        "check the settings, the data file or Redis, and the machine, without changing anything; exit code 0, \
         1 (warnings) or 2 (errors)",
    );
    Command::new("bobbin")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A realtime chat server: one binary, one thread per connection, Redis between instances.")
        .args(settings)
        .arg(healthcheck)
        .arg(check)
        .args(tools::import())
        .subcommands(tools::commands())
        .disable_help_subcommand(true)
        .after_help(after_help())
}

fn after_help() -> String {
    let mut text = "A flag overrides its environment variable. Secrets have variables only:\n".to_owned();
    for (variable, _, help) in SPECS.iter().filter(|(variable, ..)| is_secret(variable)) {
        text.push_str(&format!("  {variable}: {help}\n"));
    }
    text
}

fn flag(variable: &str) -> String {
    variable.to_ascii_lowercase().replace('_', "-")
}
