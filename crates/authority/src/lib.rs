//! A CA for the managers of a Docker swarm, over CFSSL.
