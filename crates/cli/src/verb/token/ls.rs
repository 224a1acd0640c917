//! `swarmpki token ls`: join tokens with limits, how they stand, and whom they admitted.

use clap::Args;
use daemon::engine_api::tokens::{AdmittedReport, TokenReport};
use jiff::Timestamp;

use super::no_such_tokens;
use crate::api::moment;
use crate::failure::Failure;
use crate::span;
use crate::table::Table;
use crate::verb::Context;

/// Nodes named in a row.
const NAMED_MAX: usize = 3;

/// List the join tokens with limits, and whom they admitted
///
/// They stay in the list for a week after their end. Without --json at most three nodes are named in a row.
#[derive(Args, Clone, Debug)]
pub(crate) struct LsArgs {
    /// Only display ids
    #[arg(short, long)]
    quiet: bool,
}

/// Lists.
pub(crate) async fn run(args: &LsArgs, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.client().await?;
    let tokens: Vec<TokenReport> = client.own("/tokens").await?.ok_or_else(no_such_tokens)?;
    match (context.out.json(), args.quiet) {
        (true, true) => context.out.document(&tokens.iter().map(|token| &token.id).collect::<Vec<_>>()),
        (true, false) => context.out.document(&tokens),
        (false, true) => tokens.iter().try_for_each(|token| context.out.line(&token.id)),
        (false, false) => context.out.text(table(&tokens, Timestamp::now())),
    }
}

fn table(tokens: &[TokenReport], now: Timestamp) -> String {
    let mut table = Table::new(&["ID", "ROLE", "STATE", "LEFT", "ENDS", "NOTE", "NODES"]);
    for token in tokens {
        let ends = moment(&token.ends).map_or_else(|| token.ends.clone(), |end| span::relative(end, now));
        table.row(vec![
            token.id.clone(),
            token.role.clone(),
            token.state.clone(),
            format!("{} of {}", token.left, token.uses),
            ends,
            token.note.clone(),
            names(&token.nodes),
        ]);
    }
    table.draw()
}

fn names(nodes: &[AdmittedReport]) -> String {
    let name = |node: &AdmittedReport| {
        let name = if node.hostname.is_empty() { node.id.clone() } else { node.hostname.clone() };
        if node.state == "member" { name } else { format!("{name} ({})", node.state) }
    };
    let mut names: Vec<String> = nodes.iter().take(NAMED_MAX).map(name).collect();
    if nodes.len() > NAMED_MAX {
        names.push(format!("and {} more", nodes.len() - NAMED_MAX));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_row_a_token() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let node = |hostname: &str, id: &str, state: &str| AdmittedReport {
            id: id.into(),
            hostname: hostname.into(),
            at: String::new(),
            state: state.into(),
        };
        let token = TokenReport {
            id: "2".into(),
            role: "worker".into(),
            state: "open".into(),
            uses: 10,
            left: 6,
            ends: "2026-11-22T13:00:00Z".into(),
            note: "rack 7".into(),
            nodes: vec![
                node("a", "1", "member"),
                node("", "id2", "joining"),
                node("c\x1b[2J", "3", "gone"),
                node("d", "4", "member"),
            ],
            ..TokenReport::default()
        };
        assert_eq!(
            table(&[token], now),
            "ID        ROLE      STATE     LEFT      ENDS      NOTE      NODES\n\
             2         worker    open      6 of 10   in 1h     rack 7    a, id2 (joining), c\\u{1b}[2J (gone), and 1 more\n"
        );
    }
}
