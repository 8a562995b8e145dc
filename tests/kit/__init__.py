"""What several tests start from: small lakes, homes, models, and programs that run beside a test."""
