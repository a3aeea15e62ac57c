//! Backlog experiment: text, disagreements, and files.

use lockstep_results::backlog::{
    Backlog, Check, Client, Counters, Depth, Fate, Kernel, Outcome, Prediction, Range, Trial,
};
use lockstep_results::{Document, Stored, store};
use tempfile::tempdir;

use crate::{header, sample};

fn client(fate: Fate, connect_s: f64, syn_retrans: u32, ghost: bool) -> Client {
    Client {
        started_s: 0.0,
        fate,
        connect_s: Some(connect_s),
        syn_retrans,
        ghost,
        request_retrans: u32::from(ghost),
        served_s: Some(connect_s + 0.1),
    }
}

/// listen(5) and eight more, as measured on Linux 6.18.
fn trial() -> Trial {
    let mut clients = vec![client(Fate::Instant, 0.0003, 0, false); 6];
    clients.extend(vec![client(Fate::Late, 1.02, 1, false); 6]);
    clients.extend(vec![client(Fate::Late, 1.02, 1, true); 2]);
    let overflows = Counters::from([("ListenOverflows".to_owned(), 8)]);
    Trial {
        n: 5,
        listeners: 1,
        limit: 5,
        kernel: Kernel {
            release: "6.18.0".into(),
            somaxconn: Some(4096),
            syncookies: Some(1),
            ..Kernel::default()
        },
        conns: 14,
        released_s: Some(0.5),
        length_s: 1.2,
        predicted: Prediction {
            instant: Range::exactly(6),
            late: Range::exactly(8),
            ghosts: Range { least: 0, most: 2 },
            refused: Range::exactly(0),
            reset: Range::exactly(0),
            timed_out: Range::exactly(0),
            overflows: Range::exactly(8),
        },
        measured: Outcome { instant: 6, late: 8, ghosts: 2, served: 14, ..Outcome::default() },
        checks: vec![Check {
            name: "held: ListenOverflows = SYNs without an answer".into(),
            left: 8,
            right: 8,
            holds: true,
        }],
        depth: vec![Depth { at_s: 0.0, depth: 6 }, Depth { at_s: 0.5, depth: 0 }],
        held: overflows.clone(),
        ended: overflows,
        clients,
        notes: Vec::new(),
        interrupted: false,
    }
}

fn backlog(trials: Vec<Trial>) -> Backlog {
    Backlog {
        header: header("backlog"),
        interrupted: false,
        mode: "storm".into(),
        extra: 8,
        hold_s: 0.5,
        target: None,
        private: true,
        notes: Vec::new(),
        trials,
        environment: sample().environment,
    }
}

#[test]
fn backlog_outcome_counts_every_client_once() {
    assert_eq!(Outcome::of(&trial().clients), trial().measured);
    assert_eq!(Outcome::of(&[]), Outcome::default());
    let mut unserved = client(Fate::Late, 1.0, 1, false);
    unserved.served_s = None;
    let others = [
        unserved,
        client(Fate::Reset, 1.0, 1, true),
        client(Fate::Refused, 0.0, 0, false),
        client(Fate::TimedOut, 0.0, 5, false),
    ];
    let expected = Outcome {
        late: 1,
        ghosts: 1,
        refused: 1,
        reset: 1,
        timed_out: 1,
        unserved: 1,
        ..Outcome::default()
    };
    assert_eq!(Outcome::of(&others), expected);
}

#[test]
fn backlog_sentence_describes_the_trial() {
    assert_eq!(
        trial().sentence(),
        "listen(5) admitted 6 at once; 8 more waited 1.02 s for their second SYN; 2 of them \
         believed they were connected and were not; in the end all 14 connected had a reply."
    );
    let mut shards = trial();
    (shards.listeners, shards.n, shards.measured.instant) = (2, 8, 18);
    assert!(
        shards.sentence().starts_with("2 x listen(8) admitted 18 at once, 9 for each listener; "),
        "{}",
        shards.sentence()
    );
    let mut vain = trial();
    vain.clients.truncate(6);
    vain.measured = Outcome { instant: 6, timed_out: 8, unserved: 6, ..Outcome::default() };
    assert_eq!(
        vain.sentence(),
        "listen(5) admitted 6 at once; 8 timed out; in the end 0 had a reply and 6 had not."
    );
    let mut mixed = trial();
    mixed.clients[13].syn_retrans = 22;
    mixed.clients[13].connect_s = Some(99.0);
    mixed.measured =
        Outcome { instant: 6, late: 6, ghosts: 1, refused: 1, reset: 1, ..Outcome::default() };
    assert_eq!(
        mixed.sentence(),
        "listen(5) admitted 6 at once; 6 more waited 1.02 s to 99.00 s for their second to 23rd \
         SYN; 1 of them believed it was connected and was not; 1 was refused; 1 was reset after \
         they had connected; no client had a reply."
            .replace("after they had connected", "after it had connected")
    );
}

#[test]
fn backlog_text_has_all_parts_and_fits() {
    let mut wide = trial();
    (wide.n, wide.listeners) = (4096, 16);
    wide.notes.push("a note that is quite long ".repeat(8).trim_end().to_owned());
    let mut backlog = backlog([trial(), wide].into_iter().cycle().take(7).collect());
    backlog.notes.push("no private network namespace: \x1b[31mEPERM".into());
    let text = backlog.text();
    for words in [
        "listen(5)            14       6/6       8/8   2/0-2       0     0       0     14",
        "   1st SYN   300 us      6 ██████\n   2nd SYN   1.02 s      8 ████████\n",
        "  queue, 1.2 s     ████████████████·",
        "held: ListenOverflows = SYNs without an answer             8        8        8",
        "somaxconn 4096, tcp_syncookies 1, tcp_abort_on_overflow unknown",
        "16 x listen(4096)",
        "ghosts: clients that believe they are connected and are not",
        "\nas predicted\n",
    ] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    assert!(!text.contains('\x1b'));
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    assert!(text.lines().all(|line| line == line.trim_end()), "{text}");
}

#[test]
fn backlog_text_names_disagreements() {
    assert_eq!(backlog(vec![trial()]).disagreements(), [""; 0]);
    let mut wrong = trial();
    wrong.measured.instant = 7;
    wrong.measured.ghosts = 3;
    wrong.held.insert("ListenOverflows".into(), 9);
    wrong.checks[0].holds = false;
    wrong.checks[0].left = 9;
    let mut wrong = backlog(vec![trial(), wrong]);
    assert_eq!(
        wrong.disagreements(),
        [
            "listen(5): 7 connected at once, predicted 6",
            "listen(5): 3 ghosts, predicted 0-2",
            "listen(5): ListenOverflows is 9, predicted 8",
            "listen(5): held: ListenOverflows = SYNs without an answer does not hold: 9 and 8",
        ]
    );
    let text = wrong.text();
    assert!(text.contains("NOT AS PREDICTED  listen(5): 3 ghosts") && text.contains("9 / 8!"));
    assert!(text.contains("a / b!: left and right side of a relation that does not hold"));
    assert!(!text.contains("\nas predicted"));
    // In a shared namespace, counters prove nothing.
    wrong.private = false;
    assert_eq!(wrong.disagreements().len(), 2);
    assert!(wrong.text().contains("no verdict rests on these"));
    // An interrupted trial is not judged.
    wrong.trials[1].interrupted = true;
    assert_eq!(wrong.disagreements(), [""; 0]);
}

#[test]
fn backlog_file_round_trips() {
    let folder = tempdir().unwrap();
    let stored = backlog(vec![trial()]);
    let path = store::write(&stored, folder.path(), false).unwrap();
    assert!(path.to_str().unwrap().ends_with("-backlog-5.json"), "{path:?}");
    match store::read(&path).unwrap() {
        Stored::Backlog(read) => assert_eq!(*read, stored),
        other => panic!("{other:?}"),
    }
}
