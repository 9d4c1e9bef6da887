//! Text on its way: whoever comes late gets what was said so far and then the rest, and what is void is taken back.

use engine::{
    event::hints::Delta,
    id::WorkerId,
    llm::{Stop, Turn},
    step::{Outcome, StepError, claimed::Claim, outcome::ErrorClass},
    tool::Entry,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Api, Feed, Frame};

struct Stage {
    api: Api,
    path: String,
    claim: Claim,
}

impl Stage {
    /// A step that runs, and a worker that says what the test lets it say.
    async fn set() -> Self {
        let api = Api::start().await;
        let session = api.session("ada").await;
        api.agent("ada", "coder").await;
        let said = json!({"content": "hello", "target_agent": "coder"});
        api.post("ada", &format!("/my/chat/{session}/message/"), said)
            .await
            .ok();
        let claim = Self::claim(&api).await;
        Self {
            path: format!("/my/chat/{session}/events/"),
            api,
            claim,
        }
    }

    async fn claim(api: &Api) -> Claim {
        let claims = api.store.claim(WorkerId::new(), 1).await.expect("a claim");
        let claim = claims.into_iter().next().expect("a step");
        // A run begins by reading its journal, in which the first turn is begun.
        api.store.agent_context(&claim).await.expect("a context");
        api.store.hints().feed(claim.scope.user());
        claim
    }

    fn say(&self, turn: u32, offset: usize, text: &str) {
        self.api.store.hints().delta(Delta {
            user: self.claim.scope.user(),
            session: self.claim.session,
            plan: self.claim.plan,
            step: self.claim.id,
            key: self.claim.key.clone(),
            attempt: self.claim.attempt,
            turn,
            offset,
            text: text.to_owned(),
        });
    }

    async fn keep(&self, turn: u32, text: &str) {
        self.api
            .store
            .journal_text(&self.claim, turn, text)
            .await
            .expect("kept");
    }

    async fn feed(&self) -> Feed {
        Feed::open(self.api.request("ada", Method::GET, &self.path)).await
    }
}

/// The next frame of text.
async fn piece(feed: &mut Feed) -> Value {
    loop {
        let Frame { id, event, data } = feed.event().await;
        if (id, event.as_str()) == (None, "task_progress") {
            return data["payload"].clone();
        }
    }
}

/// What a client shows that holds `so_far`.
async fn read(feed: &mut Feed, so_far: &str, wanted: &str) {
    let mut text = so_far.to_owned();
    while text != wanted {
        let piece = piece(feed).await;
        if let Some(whole) = piece["text"].as_str() {
            whole.clone_into(&mut text);
        }
        text += piece["delta"].as_str().unwrap_or_default();
        assert!(
            wanted.starts_with(&text),
            "{text:?} on the way to {wanted:?}"
        );
    }
}

#[tokio::test]
async fn who_comes_late_or_again_gets_the_text_so_far_and_then_the_rest() {
    let stage = Stage::set().await;
    let mut first = stage.feed().await;
    stage.say(0, 0, "one ");
    read(&mut first, "", "one ").await;
    let mut second = stage.feed().await;
    assert_eq!(
        piece(&mut second).await,
        json!({"key": stage.claim.key, "attempt": 1, "turn": 0, "text": "one "})
    );
    stage.say(0, 4, "two ");
    read(&mut first, "one ", "one two ").await;
    read(&mut second, "one ", "one two ").await;
    // Again, with what it has: the text takes its place, and is not added to it.
    drop(first);
    stage.say(0, 8, "three");
    let mut again = stage.feed().await;
    read(&mut again, "one two ", "one two three").await;
    // The next turn has a text of its own.
    stage.say(2, 0, "next");
    assert_eq!(piece(&mut again).await["turn"], 2);
    let mut third = stage.feed().await;
    assert_eq!(piece(&mut third).await["text"], "next");
    stage.api.finish(&stage.claim, "next").await;
    while third.event().await.event != "task_completed" {}
    let mut late = stage.feed().await;
    stage.say(2, 4, " words too late");
    let hello = json!({"content": "again", "target_agent": "coder"});
    let message = stage.path.replace("/events/", "/message/");
    stage.api.post("ada", &message, hello).await.ok();
    assert_eq!(late.event().await.event, "message_created");
}

#[tokio::test]
async fn a_process_that_heard_nothing_gets_the_text_from_the_journal() {
    let stage = Stage::set().await;
    // Said before anybody listened, and kept.
    stage.keep(0, "said and kept").await;
    let mut feed = stage.feed().await;
    assert_eq!(piece(&mut feed).await["text"], "said and kept");
    // A piece that never arrives: what follows waits until the journal has it.
    stage.say(0, 20, "fourth");
    stage.keep(0, "said and kept, third").await;
    read(&mut feed, "said and kept", "said and kept, thirdfourth").await;
}

#[tokio::test]
async fn what_a_lost_run_said_is_taken_back() {
    let mut stage = Stage::set().await;
    let mut feed = stage.feed().await;
    stage.say(0, 0, "nonsense");
    read(&mut feed, "", "nonsense").await;
    let error = StepError::new(ErrorClass::Transient, "cut", "the stream broke off");
    let again = Outcome::Retry {
        error,
        after: std::time::Duration::ZERO,
        last_words: None,
    };
    assert!(
        stage
            .api
            .store
            .finish(&stage.claim, &again)
            .await
            .expect("a finish")
    );
    stage.api.store.admit_due(10).await.expect("due");
    let next = Stage::claim(&stage.api).await;
    let lost = std::mem::replace(&mut stage.claim, next);
    assert_eq!(
        piece(&mut feed).await,
        json!({"key": lost.key, "attempt": 2, "turn": 0, "text": "", "supersedes": 1})
    );
    let zombie = Delta {
        text: " and more".to_owned(),
        offset: 8,
        attempt: 1,
        turn: 0,
        user: lost.scope.user(),
        session: lost.session,
        plan: lost.plan,
        step: lost.id,
        key: lost.key.clone(),
    };
    stage.api.store.hints().delta(zombie);
    stage.say(0, 0, "sense");
    assert_eq!(
        piece(&mut feed).await,
        json!({"key": lost.key, "attempt": 2, "turn": 0, "delta": "sense"})
    );
    let mut other = stage.feed().await;
    assert_eq!(piece(&mut other).await["text"], "sense");
}

#[tokio::test]
async fn a_turn_that_was_finished_stands_though_its_run_did_not() {
    let mut stage = Stage::set().await;
    let mut feed = stage.feed().await;
    stage.say(0, 0, "I look it up.");
    read(&mut feed, "", "I look it up.").await;
    let turn = Turn {
        text: "I look it up.".to_owned(),
        stop: Stop::End,
        usage: None,
        calls: Vec::new(),
    };
    let done = Entry::turn_done(0, serde_json::to_value(&turn).expect("JSON"));
    let entries = vec![done];
    let journaled = Outcome::Journaled {
        entries,
        then: Box::new(Outcome::Yield),
    };
    assert!(
        stage
            .api
            .store
            .finish(&stage.claim, &journaled)
            .await
            .expect("a finish")
    );
    stage.claim = Stage::claim(&stage.api).await;
    stage.say(1, 0, "Here it is.");
    assert_eq!(
        piece(&mut feed).await,
        json!({"key": stage.claim.key, "attempt": 2, "turn": 1, "delta": "Here it is."}),
        "and nothing was taken back"
    );
}
