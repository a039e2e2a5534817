/* SPDX-License-Identifier: MIT */
/* Exports a symbol: the library is built with hidden visibility, and ferry.map lists what is exported. */
#ifndef FERRY_API_H
#define FERRY_API_H

#define FERRY_API __attribute__((visibility("default")))

#endif
