//! Ends: of patience, of memory, of the caller's interest, and of the vendor itself.

use codelab_tests::vendor::GOOD;

use super::*;

#[tokio::test]
async fn a_complete_answer_does_not_wait_for_the_servers_end() -> anyhow::Result<()> {
    let vendor = Vendor::start().await;
    // Patient timeouts: what ends the call is that the model has stopped.
    let timeouts = Timeouts {
        first_byte: Duration::from_mins(1),
        idle: Duration::from_mins(1),
    };
    let router = Router::new(RouterConfig {
        timeouts,
        ..config(&vendor, None)
    })?;
    let turn = ask(&router, "openai/open-end", prompt("x"));
    let turn = tokio::time::timeout(Duration::from_secs(5), turn)
        .await?
        .result?;
    assert_eq!((turn.text.as_str(), turn.usage), (GOOD, None));
    Ok(())
}

#[tokio::test]
async fn floods_are_refused_early_and_cost_no_memory() -> anyhow::Result<()> {
    let vendor = Vendor::start().await;
    let before = peak_kib();
    for (model, said) in [
        ("huge-line", "a line of the answer is longer than"),
        ("endless", "the answer is longer than"),
    ] {
        let sent = vendor.sent_bytes();
        let error = ask_vendor(&vendor, model).await?.result.err();
        let told = error.as_ref().map(ToString::to_string).unwrap_or_default();
        assert!(
            matches!(error, Some(LlmError::Invalid(_))) && told.contains(said),
            "{model}: {error:?}"
        );
        // 8 MiB are read at most; the rest is what sockets hold.
        assert!(
            vendor.sent_bytes() - sent < 32 * 1024 * 1024,
            "{model}: {}",
            vendor.sent_bytes() - sent
        );
    }
    assert!(
        vendor.saw_dropped(2, Duration::from_secs(5)).await,
        "both connections were closed"
    );
    // The vendor and the other tests live in this process too; a line read whole would be 600 MB.
    assert!(
        peak_kib() - before < 128 * 1024,
        "{} KiB",
        peak_kib() - before
    );
    Ok(())
}

/// The most memory this process ever held; 0 where the system does not tell.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or_default()
}

#[tokio::test]
async fn dropping_the_turn_closes_the_connection() -> anyhow::Result<()> {
    let vendor = Vendor::start().await;
    // Patient timeouts: nothing but the drop may end these calls.
    let timeouts = Timeouts {
        first_byte: Duration::from_mins(1),
        idle: Duration::from_mins(1),
    };
    let router = Router::new(RouterConfig {
        timeouts,
        ..config(&vendor, None)
    })?;
    for (count, model) in ["slow", "stall", "silent", "no-headers"]
        .into_iter()
        .enumerate()
    {
        let name = format!("openai/{model}");
        let turn = ask(&router, &name, prompt("x"));
        let cancelled = tokio::time::timeout(Duration::from_millis(300), turn).await;
        assert!(cancelled.is_err(), "{model} was still running");
        assert!(
            vendor.saw_dropped(count + 1, Duration::from_secs(1)).await,
            "{model}: the vendor saw it within a second"
        );
    }
    assert_eq!(vendor.dropped(), 4);
    Ok(())
}

#[tokio::test]
async fn a_vendor_that_is_not_there_is_transient() -> anyhow::Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let base_url = format!("http://someone:secret-word@{}/v1", listener.local_addr()?);
    drop(listener);
    let config = RouterConfig {
        openai_api_key: None,
        openai_base_url: Some(base_url),
        timeouts: TIMEOUTS,
    };
    let result = ask(&Router::new(config)?, "openai/good", prompt("x"))
        .await
        .result;
    let Err(LlmError::Transient(told)) = &result else {
        anyhow::bail!("{result:?}")
    };
    assert!(
        told.contains("refused") && !told.contains("secret-word") && !told.contains("http://"),
        "{told}"
    );
    Ok(())
}
