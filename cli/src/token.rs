//! `codelab token`: a development token. Production tokens come from an identity provider.

use std::time::Duration;

use anyhow::{Context, bail};
use api::auth::dev_token;
use secrecy::SecretString;

use crate::{config::Settings, data, say};

/// Whose token, for how long.
#[derive(Debug, clap::Args)]
pub(crate) struct TokenArgs {
    /// `sub` of the token: the user that it speaks for
    #[arg(long, value_name = "NAME")]
    user: String,
    /// How long it is good: 45s, 30m, 12h, 30d
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = time)]
    ttl: Duration,
}

/// Prints the token and nothing else, so that `TOKEN=$(codelab token --user me)` works.
pub(crate) fn run(args: &TokenArgs, settings: &Settings) -> anyhow::Result<()> {
    if settings.jwks_url.is_some() {
        bail!(
            "CODELAB_JWKS_URL is set: tokens come from your identity provider, and one made here would not be accepted"
        );
    }
    let secret = match &settings.jwt_secret {
        Some(secret) => secret.clone(),
        None => data::secret_in(&settings.data_dir)?.with_context(|| {
            format!(
                "there is no secret to sign with: start `codelab up` once (it makes one in {}), or set CODELAB_JWT_SECRET",
                settings.data_dir.display()
            )
        })?,
    };
    say::line(make(&secret, &args.user, args.ttl, settings)?);
    Ok(())
}

/// A token that the service with these settings accepts.
pub(crate) fn make(
    secret: &SecretString,
    user: &str,
    ttl: Duration,
    settings: &Settings,
) -> anyhow::Result<String> {
    Ok(dev_token(
        secret,
        user,
        ttl,
        settings.jwt_issuer.as_deref(),
        settings.jwt_audience.as_deref(),
    )?)
}

/// Longest time: the API takes no token that is good for longer than a year.
const LONGEST: Duration = Duration::from_hours(365 * 24);

fn time(text: &str) -> Result<Duration, String> {
    let wrong = || "say it as 45s, 30m, 12h or 30d".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = text
        .strip_suffix(unit)
        .and_then(|number| number.parse().ok())
        .ok_or_else(wrong)?;
    let time = Duration::from_secs(number.saturating_mul(seconds));
    if time.is_zero() || time > LONGEST {
        Err("it has to be more than nothing and at most 365d".to_owned())
    } else {
        Ok(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read() {
        assert_eq!(time("30d"), Ok(Duration::from_hours(30 * 24)));
        assert_eq!(time("90s"), Ok(Duration::from_secs(90)));
        for odd in [
            "",
            "30",
            "d",
            "1w",
            "0s",
            "366d",
            "-1h",
            "1ä",
            "99999999999999999999d",
            "999999999999999999d",
        ] {
            assert!(time(odd).is_err(), "{odd}");
        }
    }
}
