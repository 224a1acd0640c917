#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Ours both ways, what is refused, and files that other programs wrote.

use super::*;

const IDENTITY: &str = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX";
const RECIPIENT: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";

fn secret(text: &str) -> SecretString {
    SecretString::new(text.to_owned())
}

#[test]
fn to_a_recipient_and_back_at_every_length_that_matters() {
    let by = By::Identities(secret(&format!("# a comment\n\n{IDENTITY}\n")));
    for bytes in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 7] {
        let plain: Vec<u8> = (0..bytes).map(|n| n as u8).collect();
        let sealed = encrypt(&To::Recipients(vec![RECIPIENT.to_owned()]), &plain).unwrap();
        assert!(sealed.starts_with(b"age-encryption.org/v1\n-> X25519 "));
        assert!(*decrypt(&by, &sealed).unwrap() == plain, "{bytes}");
        for cut in [1, TAG, TAG + 1, CHUNK + TAG] {
            assert!(decrypt(&by, &sealed[..sealed.len().saturating_sub(cut)]).is_err(), "{bytes} without {cut}");
        }
    }
}

#[test]
fn a_passphrase_opens_what_it_sealed_and_nothing_else_does() {
    let sealed = encrypt(&To::Passphrase(secret("correct horse")), b"the root's key").unwrap();
    assert_eq!(decrypt(&By::Passphrase(secret("correct horse")), &sealed).unwrap().as_slice(), b"the root's key");
    let wrong = decrypt(&By::Passphrase(secret("battery staple")), &sealed).unwrap_err();
    assert!(matches!(wrong, AgeError::NotForUs("the passphrase is wrong")), "{wrong}");
    let other = decrypt(&By::Identities(secret(IDENTITY)), &sealed).unwrap_err();
    assert!(matches!(other, AgeError::NotForUs(_)), "{other}");
}

#[test]
fn what_is_changed_anywhere_is_refused() {
    let by = By::Identities(secret(IDENTITY));
    let sealed = encrypt(&To::Recipients(vec![RECIPIENT.to_owned()]), b"plain").unwrap();
    for at in 0..sealed.len() {
        let mut hurt = sealed.clone();
        hurt[at] ^= 1;
        assert!(decrypt(&by, &hurt).is_err(), "byte {at}");
    }
    assert!(matches!(decrypt(&by, b"age-encryption.org/v2\n"), Err(AgeError::Format)));
    assert!(decrypt(&by, b"").is_err());
}

#[test]
fn recipients_and_identities_that_are_none() {
    let refused = |text: &str| encrypt(&To::Recipients(vec![text.to_owned()]), b"").is_err();
    assert!(refused("") && refused("age1") && refused(IDENTITY) && refused(&RECIPIENT.replace('z', "y")));
    assert!(refused(&RECIPIENT.replacen('z', "Z", 1)), "of two cases");
    assert!(encrypt(&To::Recipients(Vec::new()), b"").is_err());
    for text in ["", "# nothing\n", RECIPIENT] {
        assert!(matches!(
            decrypt(&By::Identities(secret(text)), b"age-encryption.org/v1\n--- AA\n"),
            Err(AgeError::Identity)
        ));
    }
}
