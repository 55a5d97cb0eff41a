"""Pure values, arithmetic and policy: no input or output, no clock, no asyncio, no logging."""
