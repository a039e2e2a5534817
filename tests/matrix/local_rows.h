{ NO_MEMORY, true, FERRY_IDLE, "" },
