"""Findings for people and machines: terminal, HTML, JSON, SARIF, JUnit, a regression test."""
