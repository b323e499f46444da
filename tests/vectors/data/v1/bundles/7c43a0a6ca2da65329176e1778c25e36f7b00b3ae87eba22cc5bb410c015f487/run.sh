#!/bin/sh
exit 75
