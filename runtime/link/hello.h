/* SPDX-License-Identifier: MIT */
/* Checks of HELLO and HELLO_ACK: 0, or an error with its sentence in f or, without f, in s->fail. */
#ifndef FERRY_HELLO_H
#define FERRY_HELLO_H

#include "runtime/session/session.h"

/* Take the newest version that both ends speak from a HELLO or HELLO_ACK. -EPROTO, -EPROTONOSUPPORT. */
int hello_version(const struct wire_msg *m, uint16_t *ret, struct fail *f);
/* Check all other fields: of a HELLO at the target (id: its connection's), of a HELLO_ACK at the source. */
int hello_check(struct ferry_session *s, const struct wire_hello *h, const struct xport_link_id *id);
int hello_check_ack(struct ferry_session *s, const struct wire_hello_ack *ack);
/*
 * Copy the greeting m into ret (len bytes). Fields beyond len are ignored, fields that m lacks read as 0.
 * -EPROTO if m has less than least bytes.
 */
int hello_take(void *ret, size_t len, size_t least, const struct wire_msg *m, struct fail *f);
/* Compare in constant time, so that the time does not tell how many bytes match. */
bool hello_same_number(const uint8_t a[WIRE_NUMBER], const uint8_t b[WIRE_NUMBER]);
/*
 * Target: whether msg, the first message (sequence number seq) of a connection with this id, is the HELLO of
 * the session's source. Until it is, nothing that the connection sends changes anything here.
 */
bool hello_is_source(const struct ferry_session *s, const void *msg, size_t len, uint32_t seq,
		     const struct xport_link_id *id);

#endif
