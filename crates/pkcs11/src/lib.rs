//! A signing key that lives in a PKCS#11 token, behind a process of its own.
