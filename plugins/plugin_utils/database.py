"""What PostgreSQL and Redis are told of a password, and PostgreSQL's shares of memory."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

ITERATIONS = 4096  # PostgreSQL's own default (scram_iterations)


def scram_verifier(password: str, role: str, iterations: int = ITERATIONS) -> str:
    """Return what PostgreSQL stores for a password: SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>.

    The salt is derived from password and role by as many iterations as the verifier itself, so that the
    result is the same in each run (idempotent, and equal on PostgreSQL and PgBouncer) and yet no quicker to guess from.
    Source: RFC 5802 section 3, RFC 7677; PostgreSQL's src/common/scram-common.c.
    ASCII passwords only: PostgreSQL prepares others by SASLprep.
    """
    if not password.isascii():
        raise ValueError(f"the password of role {role} has characters outside ASCII; choose another")
    salt = hashlib.pbkdf2_hmac("sha256", password.encode(), f"throat.stack:{role}".encode(), iterations)[:16]
    return verifier(password, salt, iterations)


def verifier(password: str, salt: bytes, iterations: int) -> str:
    """Return the verifier of a password under a given salt (16 bytes)."""
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    shown = [base64.b64encode(raw).decode() for raw in (salt, stored_key, server_key)]
    return "SCRAM-SHA-256${}:{}${}:{}".format(iterations, *shown)


def redis_login(password: str) -> str:
    """Return what a client of Redis says for a password: itself, or what stands for it where its characters mean something in an address.

    redis-py 3.5, which Throat has, takes the parts of an address as they are, and later ones decode them: what neither can hold is replaced by a digest
    that only who has the password can make, and the role redis admits both.
    """
    if re.fullmatch(r"[A-Za-z0-9._~-]+", password):
        return password
    return hashlib.sha256(f"throat.stack:{password}".encode()).hexdigest()


def postgres_memory(memory_mb: int, max_connections: int) -> dict[str, str]:
    """Return PostgreSQL's memory settings for a budget of memory_mb MiB.

    Source: PostgreSQL's manual, "Resource Consumption": a quarter of the memory as shared_buffers is a
    reasonable start; work_mem may be used several times per connection, so all of them together get a quarter.
    """
    return {
        "shared_buffers": f"{max(128, memory_mb // 4)}MB",
        "effective_cache_size": f"{max(256, memory_mb * 3 // 4)}MB",
        "maintenance_work_mem": f"{min(1024, max(64, memory_mb // 16))}MB",
        "work_mem": f"{min(64, max(4, memory_mb // 4 // max(1, max_connections)))}MB",
    }
