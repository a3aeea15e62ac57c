//! Text of comparisons.

use lockstep_results::{Comparison, Document, ErrorCount, Plan};

use super::{THREE, plan, runs, three};

#[test]
fn findings_are_sentences() {
    assert_eq!(
        three(8).sentences(),
        [
            "io-uring needs 0.87x [0.86, 0.88] of mio's server CPU per exchange",
            "mio and blocking: no difference within noise (1.00x [0.99, 1.01] of the server CPU \
             per exchange)",
        ]
    );
}

#[test]
fn tables_have_a_row_for_each_subject() {
    let expected = "
1,000 connections x 64 bytes, closed loop, 8 rounds: precise enough

| server CPU per exchange | median | noise |         ratio to mio |
|-------------------------|--------|-------|----------------------|
| mio                     | 4.12us |   1 % |                      |
| io-uring                | 3.59us |   0 % |   0.87x [0.86, 0.88] |
| blocking                | 4.12us |   0 % | ~ 1.00x [0.99, 1.01] |

| median   | throughput |    p50 |    p99 |  p99.9 | client CPU |
|----------|------------|--------|--------|--------|------------|
| mio      |   241.9k/s | 4.40ms | 7.90ms | 7.90ms |     3.21us |
| io-uring |   241.9k/s | 4.40ms | 7.90ms | 7.90ms |     3.21us |
| blocking |   241.9k/s | 4.40ms | 7.90ms | 7.90ms |     3.21us |

| ratio to mio |           throughput |                  p50 |
|--------------|----------------------|----------------------|
| io-uring     | ~ 1.00x [1.00, 1.00] | ~ 1.00x [1.00, 1.00] |
| blocking     | ~ 1.00x [1.00, 1.00] | ~ 1.00x [1.00, 1.00] |
";
    let text = three(8).text();
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("\n~: no difference shown\n2 comparisons with mio: "), "{text}");
    assert!(!text.contains("?: too few"), "only marks that occur are explained: {text}");
}

#[test]
fn comparison_text_fits_a_terminal() {
    let long = "a very long name\x1b[2J of a subject, as somebody may call his own server";
    let mut wild = runs(8, &[("mio", 1.0), (long, 1e9), ("tokio-multi-thread", 0.999)]);
    for run in wild.iter_mut().filter(|run| run.subject == long) {
        run.record.throughput_per_s = if run.round % 2 == 0 { f64::NAN } else { 1e300 };
        run.record.conns = 1000;
        run.record.errors_total = u64::MAX / 100;
        run.record.invalid_reasons =
            if run.round == 3 { vec!["because ".repeat(100)] } else { Vec::new() };
        run.record.valid = run.round != 3;
    }
    let mut empty = runs(8, &[("mio", 1.0)]);
    empty.iter_mut().for_each(|run| run.record.server = None);
    let mut plan = plan(&["mio", long, "tokio-multi-thread"]);
    plan.aa = true;
    for runs in [&wild[..], &empty, &[]] {
        for baseline in ["mio", long, "nobody"] {
            let plan = Plan { baseline: baseline.into(), ..plan.clone() };
            let comparison = Comparison::judge(plan, runs);
            let text = comparison.text();
            for line in text.lines() {
                assert!(line.chars().count() <= 80, "{line}\n{text}");
                assert!(!line.contains(char::is_control), "{line:?}");
            }
        }
    }
}

#[test]
fn text_names_the_causes_of_failures() {
    let mut runs = runs(8, &THREE);
    let eof = ErrorCount {
        kind: "eof".into(),
        errno: None,
        count: 5,
        first: "connection 3: the server closed an idle connection".into(),
    };
    let reset = ErrorCount {
        kind: "receive".into(),
        errno: Some("ECONNRESET".into()),
        count: 7,
        first: "connection 0: connection reset by peer".into(),
    };
    for run in runs.iter_mut().filter(|run| run.subject == "blocking").take(3) {
        run.record.errors_total = 12;
        run.record.errors = vec![eof.clone(), reset.clone()];
    }
    let text = Comparison::judge(plan(&["mio", "io-uring", "blocking"]), &runs).text();
    let text = text.replace("\n    ", " ");
    let words = "blocking: 36 connections failed in 3 of 8 runs: 21 receive, connection reset by \
                 peer (ECONNRESET); 15 eof, the server closed an idle connection";
    assert!(text.contains(words), "{text}");
    assert!(!text.contains("mio: 0 connections"), "{text}");
}
