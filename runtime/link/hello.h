/* SPDX-License-Identifier: MIT */
/* What HELLO and HELLO_ACK may say. The checks return 0, or an error with its sentence in f, or in s->fail. */
#ifndef FERRY_HELLO_H
#define FERRY_HELLO_H

#include "runtime/session/session.h"

/* The version that both ends speak, of a HELLO or a HELLO_ACK. */
int hello_version(const struct wire_msg *m, uint16_t *ret, struct fail *f);
int hello_check(struct ferry_session *s, const struct wire_hello *h, const struct xport_link_id *id);
int hello_check_ack(struct ferry_session *s, const struct wire_hello_ack *ack);
/* The len bytes of m that are known here, into ret. It may have more, and fewer, but least: what is not there reads as 0. */
int hello_take(void *ret, size_t len, size_t least, const struct wire_msg *m, struct fail *f);
/* Takes as long however much of it is right. */
bool hello_same_number(const uint8_t a[WIRE_NUMBER], const uint8_t b[WIRE_NUMBER]);
/*
 * Target: whether this first message (with number seq) of a connection with that id is the HELLO of the source that was here
 * before. Until it is, nothing that the connection says changes anything.
 */
bool hello_is_source(const struct ferry_session *s, const void *msg, size_t len, uint32_t seq,
		     const struct xport_link_id *id);

#endif
